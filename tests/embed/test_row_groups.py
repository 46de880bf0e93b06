"""Features a row group at a time: the same as all at once, from photos and from tables."""

import logging

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flip.data.open import open_dataset
from flip.embed import row_groups
from flip.embed.row_groups import feature_row_groups
from flip.embed.table import TABLE_FILE, read_table_features, write_table, write_table_row_groups
from flip.embed.unreadable import Unreadable
from flip.errors import DataError
from tests.embed.plain_encoder import extractor, write_photo

N = 23


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Class folders with 23 photos, of which one is broken, and groups of 5 rows."""
    monkeypatch.setattr(row_groups, "GROUP_ROWS", 5)
    for i in range(N):
        write_photo(tmp_path / "photos" / f"class {i % 3}" / f"{i:02}.bmp", 11 * i)
    (tmp_path / "photos" / "class 1" / "04.bmp").write_bytes(b"BM, and nothing more")
    return tmp_path / "photos"


def same(groups, whole):
    groups = list(groups)
    assert len(groups) > 1
    assert (np.concatenate([group.image_features for group in groups]) == whole.image_features).all()
    assert np.concatenate([group.labels for group in groups]).tolist() == whole.labels.tolist()
    for name in ("paths", "splits", "errors", "captions"):
        assert tuple(value for group in groups for value in getattr(group, name)) == getattr(whole, name)
    assert {(group.classnames, group.fingerprint) for group in groups} == {(whole.classnames, whole.fingerprint)}


def test_groups_of_photos_are_their_features(photos, tmp_path):
    dataset, seen = open_dataset(photos), []
    same(
        feature_row_groups(dataset, extractor(tmp_path / "a"), seen.append), extractor(tmp_path / "b").features(dataset)
    )
    assert sum(seen) == N


def test_groups_of_a_table_are_its_features(photos, tmp_path, monkeypatch):
    own, dataset = extractor(tmp_path / "a"), open_dataset(photos)
    write_table(tmp_path / "t", own.features(dataset), dataset, "plain")
    monkeypatch.setattr("flip.embed.table_rows._AT_ONCE", 4)
    table = open_dataset(tmp_path / "t")
    same(feature_row_groups(table, None), read_table_features(table))
    some = table.select("train")
    same(feature_row_groups(some, own), own.features(some))


def test_groups_of_another_program_s_table_are_its_features(tmp_path, monkeypatch):
    rows = np.random.default_rng(0).normal(0, 3, (N, 6))
    rows[4] = 0
    cells = {"path": [f"{i}.jpg" for i in range(N)], "label": [f"{i % 3}" for i in range(N)], "vector": list(rows)}
    pq.write_table(pa.table(cells), tmp_path / "x.parquet", row_group_size=4)
    monkeypatch.setattr("flip.data.vector_files.AT_ONCE", 4)
    table = open_dataset(tmp_path / "x.parquet")
    whole = read_table_features(table)
    assert [i for i, error in enumerate(whole.errors) if error] == [4]
    same(feature_row_groups(table, None), whole)


def test_a_table_written_by_groups_is_the_table_written_at_once(photos, tmp_path):
    own, dataset = extractor(tmp_path / "c"), open_dataset(photos)
    (tmp_path / "groups").mkdir()
    write_table_row_groups(tmp_path / "groups", feature_row_groups(dataset, own), dataset, "plain", precision="fp32")
    write_table(tmp_path / "once", own.features(dataset), dataset, "plain", precision="fp32")
    one, other = (pq.ParquetFile(tmp_path / name / TABLE_FILE) for name in ("groups", "once"))
    assert one.num_row_groups > 1
    assert one.schema_arrow.metadata == other.schema_arrow.metadata
    assert one.read().equals(other.read())


def test_a_damaged_table_is_found_out_in_its_last_group(photos, tmp_path):
    own, dataset = extractor(tmp_path / "c"), open_dataset(photos)
    write_table(tmp_path / "t", own.features(dataset), dataset, "plain")
    table = open_dataset(tmp_path / "t")
    whole = pq.read_table(tmp_path / "t" / TABLE_FILE)
    pq.write_table(whole.slice(0, N - 1), tmp_path / "t" / TABLE_FILE)
    with pytest.raises(DataError, match="has no row of"):
        list(feature_row_groups(table, None))


def test_what_cannot_be_read_is_told_once_for_all_groups(photos, tmp_path, caplog):
    for file in (photos / "class 2").iterdir():
        file.write_bytes(b"BM, and nothing more")
    dataset = open_dataset(photos, test_fraction=0.0)
    unreadable = Unreadable()
    with caplog.at_level(logging.INFO):
        rows = sum(map(len, unreadable.watch(feature_row_groups(dataset, extractor(tmp_path / "c")))))
        assert not caplog.messages
        unreadable.tell()
    assert (rows, unreadable.photos, unreadable.count) == (N, N, 8)
    assert [message.partition(", the first: ")[0] for message in caplog.messages] == [
        "8 of 23 photos cannot be read",
        "1 class has no photo of split 'train' that can be read: 'class 2'",
    ]
    assert "class 1/04.bmp" in caplog.messages[0]
