"""Cache keys of a photo: path, size and times, or content."""

import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flip.embed.cache import EmbeddingCache
from flip.embed.keys import FileKey, Source, file_key
from flip.embed.parts import FINGERPRINT_KEY
from flip.embed.photo import read_photo
from flip.embed.rows import NewRow
from flip.embed.vectors import embedding_column
from tests.embed.plain_encoder import (
    DIM,
    PlainEncoder,
    embed,
    extractor,
    key,
    unit,
    write_photo,
    write_photos,
)


def moved(folder, files):
    folder.rename(folder.with_name("elsewhere"))
    return [folder.with_name("elsewhere") / file.name for file in files]


def copied(folder, files):
    shutil.copytree(folder, folder.with_name("copy"))
    return [folder.with_name("copy") / file.name for file in files]


def mounted(folder, files):
    folder.with_name("mount").symlink_to(folder)
    return [folder.with_name("mount") / file.name for file in files]


def renamed(folder, files):
    return [file.rename(file.with_name(f"other-{file.name}")) for file in files]


def linked(folder, files):
    for file in files:
        os.link(file, file.with_name(f"link-{file.name}"))
    return [file.with_name(f"link-{file.name}") for file in files]


def touched(folder, files):
    for file in files:
        os.utime(file, ns=(1, 1))
    return files


def permitted(folder, files):
    for file in files:
        file.chmod(0o600)
    return files


CHANGES = [moved, copied, mounted, renamed, linked, touched, permitted]


@pytest.mark.parametrize("change", CHANGES)
def test_what_a_file_holds_makes_it_known(tmp_path, change):
    files = write_photos(tmp_path / "photos")
    before, _, read = embed(tmp_path / "c", files)
    assert read == len(files)
    files = change(tmp_path / "photos", files)
    for run in ("by content", "by path"):
        after, errors, read = embed(tmp_path / "c", files)
        assert read == 0, run
        assert errors == [None] * len(files)
        assert (after == before).all()


def test_a_file_that_is_known_by_its_content_is_read_for_it_once(tmp_path, monkeypatch):
    files = write_photos(tmp_path / "photos")
    embed(tmp_path / "c", files)
    files = moved(tmp_path / "photos", files)
    opened = []
    monkeypatch.setattr("flip.embed.photo.open_plain", lambda file, real=open: opened.append(file) or real(file, "rb"))
    embed(tmp_path / "c", files)
    assert sorted(opened) == sorted(map(str, files))
    embed(tmp_path / "c", files)
    assert len(opened) == len(files)


def overwritten(file, other):
    file.write_bytes(other.read_bytes())


def replaced(file, other):
    shutil.copyfile(other, file.with_name("new"))
    os.utime(file.with_name("new"), ns=(file.stat().st_atime_ns, file.stat().st_mtime_ns))
    file.with_name("new").replace(file)


def swapped(file, other):
    held = file.read_bytes()
    file.write_bytes(other.read_bytes())
    other.write_bytes(held)


@pytest.mark.parametrize("replace", [overwritten, replaced, swapped])
def test_a_file_that_was_replaced_with_the_same_size_and_time_is_noticed(tmp_path, replace):
    files = write_photos(tmp_path / "photos")
    before, _, _ = embed(tmp_path / "c", files)
    stat = files[3].stat()
    replace(files[3], files[7])
    os.utime(files[3], ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert (files[3].stat().st_size, files[3].stat().st_mtime_ns) == (stat.st_size, stat.st_mtime_ns)
    after, _, read = embed(tmp_path / "c", files)
    assert (after[3] == before[7]).all()
    assert read == 0, "what it holds now was embedded before"
    write_photo(files[3], 111)
    os.utime(files[3], ns=(stat.st_atime_ns, stat.st_mtime_ns))
    after, _, read = embed(tmp_path / "c", files)
    assert read == 1
    assert not (after[3] == before).all(axis=1).any()


def test_a_lost_index_costs_no_embedding(tmp_path):
    files = write_photos(tmp_path / "photos")
    before, _, _ = embed(tmp_path / "c", files)
    embed(tmp_path / "c", copied(tmp_path / "photos", files))
    next(tmp_path.glob("c/*/images.sqlite")).unlink()
    after, _, read = embed(tmp_path / "c", [*files, *(tmp_path / "copy" / file.name for file in files)])
    assert read == 0
    assert (after == np.concatenate([before, before])).all()


@pytest.mark.parametrize("boxes", [(None, (0.0, 0.0, 12.0, 12.0)), ((0.0, 0.0, 8.0, 8.0), (4.0, 4.0, 8.0, 8.0))])
def test_another_box_of_the_same_content_is_another_photo(tmp_path, boxes):
    file = write_photo(tmp_path / "a.bmp", 50)
    copy = Path(shutil.copyfile(file, tmp_path / "b.bmp"))
    first, second = boxes
    with extractor(tmp_path / "c").open_cache() as cache:
        for source in (Source(str(file), first), Source(str(copy), second)):
            read = read_photo(source, file_key(source), cache.knows_content, PlainEncoder)
            assert not read.is_known
            cache.add(NewRow(file_key(source), unit(1, 2, 3, 4), None, read.content))
            cache.flush()
        again = Source(str(copy), first)
        assert read_photo(again, file_key(again), cache.knows_content, PlainEncoder).is_known


def write_old_part(cache: Path, rows: list[tuple[FileKey, object, str | None]]) -> Path:
    """Write a part as flip 0.1 did, without content, decoding, versions and check sums."""
    folder = next((cache.glob("*/images")), None) or cache / extractor(cache).fingerprint / "images"
    folder.mkdir(parents=True, exist_ok=True)
    keys, embeddings, errors = zip(*rows, strict=True)
    halves = [None if row is None else row.astype(np.float16) for row in embeddings]
    table = pa.table(
        {
            "path": [key.path for key in keys],
            "size": [key.size for key in keys],
            "mtime_ns": [key.mtime_ns for key in keys],
            "embedding": embedding_column(halves, DIM),
            "error": pa.array(errors, pa.string()),
        }
    ).replace_schema_metadata({FINGERPRINT_KEY: folder.parent.name.encode()})
    file = folder / f"{len(list(folder.iterdir())):020d}-old.parquet"
    pq.write_table(table, file, compression="zstd", write_page_checksum=True)
    return file


def test_rows_of_earlier_caches_stay_valid_by_path_size_and_time(tmp_path):
    files = write_photos(tmp_path / "photos")
    old = [unit(1, 2, 3, i) for i in range(len(files))]
    keys = [file_key(Source(str(file))) for file in files]
    write_old_part(tmp_path / "c", [(key, row, None) for key, row in zip(keys, old, strict=True)])
    rows, _, read = embed(tmp_path / "c", files)
    assert read == 0
    assert rows == pytest.approx(np.stack(old), abs=1e-3)
    os.utime(files[2], ns=(1, 1))
    rows, _, read = embed(tmp_path / "c", files)
    assert read == 1
    assert rows[2] != pytest.approx(old[2], abs=1e-3)


def test_errors_of_earlier_caches_do_not_say_who_made_them_and_are_tried_again(tmp_path):
    files = write_photos(tmp_path / "photos", 3)
    keys = [file_key(Source(str(file))) for file in files]
    write_old_part(tmp_path / "c", [(key, None, "image too large: out of memory") for key in keys])
    _, errors, read = embed(tmp_path / "c", files)
    assert (errors, read) == ([None] * 3, 3)


def test_a_part_that_another_process_adds_later_is_noticed(tmp_path):
    with extractor(tmp_path / "c").open_cache() as cache:
        assert not cache.look_up([key("a")]).known.any()
        part = write_old_part(tmp_path / "c", [(key("a"), unit(1, 2, 3, 4), None)])
        assert cache.look_up([key("a")]).known.all()
        part.unlink()
        assert not cache.look_up([key("a")]).known.any()


@pytest.mark.parametrize("wanted", [("exact",), ("fast",), ("fast", "exact"), ("exact", "fast")])
def test_how_a_photo_was_decoded_stands_in_its_row(tmp_path, wanted):
    with EmbeddingCache(tmp_path, "f1", 2) as cache:
        cache.add(NewRow(key("a", 10, 5, 7), unit(1, 0), None, "c" * 64, "exact"))
        cache.flush()
        cache.add(NewRow(key("a", 10, 5, 7), unit(0, 1), None, "c" * 64, "fast"))
    with EmbeddingCache(tmp_path, "f1", 2, decodings=wanted) as cache:
        expected = {"exact": [1, 0], "fast": [0, 1]}[wanted[0]]
        assert cache.look_up([key("a", 10, 5, 7)]).embeddings[0] == pytest.approx(expected)
        moved = key("b", 10, 9, 9)
        assert cache.look_up_contents([moved], ["c" * 64]).embeddings[0] == pytest.approx(expected)
        assert cache.look_up([moved]).embeddings[0] == pytest.approx(expected)


@pytest.mark.parametrize("only", ["exact", "fast"])
def test_a_row_that_was_decoded_otherwise_is_unknown(tmp_path, only):
    other = {"exact": "fast", "fast": "exact"}[only]
    with EmbeddingCache(tmp_path, "f1", 2, decodings=(only,)) as cache:
        cache.add(NewRow(key("a"), unit(1, 0), None, "c" * 64, other))
        cache.flush()
        assert not cache.look_up([key("a")]).known.any()
        assert not cache.knows_content(key("a"), "c" * 64)


def test_names_that_are_not_utf_8_are_keys_like_others(tmp_path):
    names = [b"\xff.bmp", b"\xfe.bmp", b"caf\xe9.bmp", "é.bmp".encode(), b"%FF.bmp", b"\\xff.bmp", b"a#xywh=1.bmp"]
    files = [os.fsdecode(os.path.join(os.fsencode(tmp_path), name)) for name in names]
    for i, file in enumerate(files):
        write_photo(Path(file), 30 * i + 5)
    before, errors, read = embed(tmp_path / "c", files)
    assert (errors, read) == ([None] * len(files), len(files))
    after, _, read = embed(tmp_path / "c", files)
    assert read == 0
    assert (after == before).all()
    assert len(np.unique(after, axis=0)) == len(files)


def test_a_file_that_grows_while_it_is_read_is_looked_at_again(tmp_path):
    file = write_photo(tmp_path / "a.bmp", 50)
    before = file_key(Source(str(file)))
    with file.open("ab") as stream:
        stream.write(b"more")
    read = read_photo(Source(str(file)), before, lambda key, content: False, PlainEncoder)
    assert read.pixels is not None
    assert not read.is_lasting


def test_what_is_no_plain_file_has_an_error_of_its_own(tmp_path):
    os.mkfifo(tmp_path / "fifo.bmp")
    (tmp_path / "link.bmp").symlink_to("link.bmp")
    files = [tmp_path / "fifo.bmp", tmp_path, tmp_path / "link.bmp", "/dev/null", "/dev/zero", tmp_path / "none"]
    _, errors, read = embed(tmp_path / "c", files)
    assert errors == [*["not a plain file"] * 2, "no such file", *["not a plain file"] * 2, "no such file"]
    assert read == 0


def test_a_camera_s_raw_file_is_told_by_its_name_though_its_bytes_are_read_first(tmp_path):
    file = write_photo(tmp_path / "a.bmp", 50)
    from PIL import Image

    Image.open(file).save(tmp_path / "a.nef", "TIFF")
    _, errors, _ = embed(tmp_path / "c", [tmp_path / "a.nef"])
    assert errors == ["camera raw is not read; convert it to JPEG or PNG"]
