"""Damaged cache parts are set aside with one line, and none of their rows is used."""

import logging
import os
import shutil

import numpy as np
import pytest

from flip.embed.cache import EmbeddingCache
from flip.embed.rows import NewRow
from flip.embed.text_cache import TextCache
from tests.embed.plain_encoder import embed, images_folder, key, unit, write_photos
from tests.embed.test_content import write_old_part

N, DIM = 40, 8


def fill(folder, parts=1):
    """Write a cache whose rows are known."""
    rows = np.random.default_rng(0).standard_normal((N, DIM)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    with EmbeddingCache(folder, "f1", DIM) as cache:
        for part in range(parts):
            for i in range(part, N, parts):
                cache.add(NewRow(key(i, ctime=9), rows[i], None, f"{i:064x}"))
            cache.flush()
    return rows


def known_rows(folder):
    with EmbeddingCache(folder, "f1", DIM) as cache:
        return cache.look_up([key(i, ctime=9) for i in range(N)])


def flip_bit(file, position):
    content = bytearray(file.read_bytes())
    content[position // 8 % len(content)] ^= 1 << position % 8
    file.write_bytes(content)


def require_right_or_unknown(found, rows):
    near = np.abs(found.embeddings - rows).max(axis=1) < 2e-3
    assert (near | ~found.known).all(), "a row is silently wrong"
    assert found.errors == [None] * N


@pytest.mark.parametrize("seed", range(4))
def test_a_bit_that_flips_in_a_part_is_noticed(tmp_path, seed):
    rows = fill(tmp_path / "whole")
    part = next(images_folder(tmp_path / "whole").glob("*.parquet"))
    unknown = 0
    for position in np.random.default_rng(seed).integers(0, 8 * part.stat().st_size, 60):
        shutil.rmtree(tmp_path / "c", ignore_errors=True)
        shutil.copytree(tmp_path / "whole", tmp_path / "c")
        flip_bit(images_folder(tmp_path / "c") / part.name, int(position))
        if position % 2:
            (tmp_path / "c" / "f1" / "images.sqlite").unlink()
        found = known_rows(tmp_path / "c")
        require_right_or_unknown(found, rows)
        unknown += not found.known.all()
    assert unknown > 10


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", ["images.sqlite", "images.sqlite-journal", "images.sqlite-wal", "images.sqlite-shm"])
@pytest.mark.parametrize("special", ["fifo", "link to itself"])
def test_special_files_in_place_of_the_index_are_not_waited_for(tmp_path, name, special):
    rows = fill(tmp_path / "c")
    place = tmp_path / "c" / "f1" / name
    place.unlink(missing_ok=True)
    os.mkfifo(place) if special == "fifo" else place.symlink_to(place)
    found = known_rows(tmp_path / "c")
    require_right_or_unknown(found, rows)
    assert found.known.all()


@pytest.mark.parametrize("seed", range(4))
def test_a_bit_that_flips_in_the_index_is_noticed(tmp_path, seed):
    rows = fill(tmp_path / "whole", parts=3)
    index = tmp_path / "whole" / "f1" / "images.sqlite"
    for position in np.random.default_rng(seed).integers(0, 8 * index.stat().st_size, 40):
        shutil.rmtree(tmp_path / "c", ignore_errors=True)
        shutil.copytree(tmp_path / "whole", tmp_path / "c")
        flip_bit(tmp_path / "c" / "f1" / "images.sqlite", int(position))
        require_right_or_unknown(known_rows(tmp_path / "c"), rows)
        assert len(list((tmp_path / "c" / "f1" / "images").glob("*.parquet"))) == 3, "no part is blamed for the index"


@pytest.mark.parametrize("statement", ["row = 39 - row", "content = content + 1", "row = -row", "row = row + 1000"])
def test_an_index_that_points_to_the_wrong_rows_is_made_anew(tmp_path, statement):
    import sqlite3

    rows = fill(tmp_path)
    with sqlite3.connect(tmp_path / "f1" / "images.sqlite") as db:
        db.execute(f"UPDATE rows SET {statement}")
    db.close()
    found = known_rows(tmp_path)
    require_right_or_unknown(found, rows)
    assert len(list(images_folder(tmp_path).glob("*.parquet"))) == 1
    assert known_rows(tmp_path).known.all()


@pytest.mark.parametrize("content", [b"", b"no database", b"SQLite format 3\0" + bytes(5000), b"\0" * 8192])
def test_an_index_that_is_none_is_made_anew(tmp_path, content):
    rows = fill(tmp_path)
    (tmp_path / "f1" / "images.sqlite").write_bytes(content)
    found = known_rows(tmp_path)
    assert found.known.all()
    require_right_or_unknown(found, rows)


def truncated(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def emptied(file):
    file.write_bytes(b"")


def text(file):
    file.write_text("no table")


def of_another_model(file):
    rewritten(file, fingerprint="f2")


def with_other_columns(file):
    rewritten(file, columns={"path": [1], "embedding": [[0.0] * DIM]})


def of_another_width(file):
    rewritten(file, columns={"path": ["/a"], "size": [1], "mtime_ns": [1], "embedding": [[1.0]], "error": [None]})


def rewritten(file, fingerprint="f1", columns=None):
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(file) if columns is None else pa.table(columns)
    pq.write_table(table.replace_schema_metadata({"flip.fingerprint": fingerprint}), file)


@pytest.mark.parametrize("with_index", [True, False])
@pytest.mark.parametrize(
    "damage",
    [truncated, emptied, text, of_another_model, with_other_columns, of_another_width],
    ids=lambda d: d.__name__,
)
def test_one_damaged_part_is_set_aside_with_one_line_and_the_others_are_read(tmp_path, caplog, damage, with_index):
    rows = fill(tmp_path, parts=4)
    part = sorted(images_folder(tmp_path).glob("*.parquet"))[1]
    damage(part)
    if not with_index:
        (tmp_path / "f1" / "images.sqlite").unlink()
    with caplog.at_level(logging.WARNING):
        found = known_rows(tmp_path)
    require_right_or_unknown(found, rows)
    assert found.known.sum() == N - N // 4
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 1
    assert part.name in said[0]
    assert "\n" not in said[0]
    assert part.with_name(f"{part.name}.damaged").exists()
    caplog.clear()
    assert known_rows(tmp_path).known.sum() == N - N // 4
    assert not caplog.records, "it is said once"


@pytest.mark.parametrize("value", [np.nan, np.inf, 3.0])
def test_a_row_of_an_earlier_cache_that_is_not_of_unit_length_is_not_believed(tmp_path, caplog, value):
    rows = [unit(1, 2, 3, 4), unit(1, 0, 0, 2), np.array([value, 1, 1, 1], np.float32)]
    write_old_part(tmp_path, [(key(i), row, None) for i, row in enumerate(rows)])
    with EmbeddingCache(tmp_path, next(tmp_path.iterdir()).name, 4) as cache:
        assert not cache.look_up([key(2)]).known.any()
    assert "a row is not as it was written" in caplog.text


def test_a_run_over_a_damaged_part_embeds_what_it_held(tmp_path):
    files = write_photos(tmp_path / "photos", 12)
    before, _, _ = embed(tmp_path / "c", files[:6])
    more, _, _ = embed(tmp_path / "c", files[6:])
    flip_bit(max(images_folder(tmp_path / "c").glob("*.parquet")), 8 * 700 + 3)
    after, errors, _ = embed(tmp_path / "c", files)
    assert errors == [None] * 12
    assert after == pytest.approx(np.concatenate([before, more]), abs=1e-3)
    assert embed(tmp_path / "c", files)[2] == 0


@pytest.mark.parametrize("position", [300, 900, 1500, 2100])
def test_a_bit_that_flips_in_a_part_of_texts_is_noticed(tmp_path, position):
    texts = [f"a photo of bird {i}" for i in range(20)]
    rows = np.eye(20, dtype=np.float32)
    TextCache(tmp_path, "f1", 20).add(texts, rows)
    flip_bit(next((tmp_path / "f1" / "texts").glob("*.parquet")), 8 * position + 1)
    embeddings, known = TextCache(tmp_path, "f1", 20).look_up(texts)
    assert (embeddings[known] == rows[known]).all()
