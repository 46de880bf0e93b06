"""Tables of embeddings are read once, checked, and say how they were made."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flip.data.dataset import Dataset, Record
from flip.embed.table import TABLE_FILE, make_features, read_table_features, table_metadata, write_table
from flip.embed.vectors import embedding_column
from flip.errors import DataError

N, DIM = 30, 8


def dataset(root, **changes):
    records = tuple(Record(f"{i}.jpg", i % 3, "test" if i % 4 == 0 else "train") for i in range(N))
    return Dataset(root, "manifest", ("a", "b", "c"), ("a", "b", "c"), records, **changes)


@pytest.fixture
def table(tmp_path):
    """A table, its dataset and its features; the sixth photo could not be read."""
    rows = np.random.default_rng(0).standard_normal((N, DIM)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    rows[5] = 0
    errors = [None] * N
    errors[5] = "truncated image"
    features = make_features(dataset(tmp_path), rows, errors, "f" * 16)
    folder = tmp_path / "table"
    write_table(folder, features, dataset(tmp_path), "some/model", precision="bf16")
    return folder / TABLE_FILE, dataset(tmp_path, embeddings=folder), features


def test_features_are_what_was_written_whole_or_in_part_and_in_any_order(table):
    _, whole, features = table
    for rows in (range(N), range(N - 1, -1, -1), [7, 3, 5], []):
        found = read_table_features(whole.take(rows))
        expected = features.take(rows)
        assert found.image_features == pytest.approx(expected.image_features, abs=2e-3)
        assert (found.paths, found.errors, found.splits) == (expected.paths, expected.errors, expected.splits)
        norms = np.linalg.norm(found.readable().image_features, axis=1)
        assert norms == pytest.approx(np.ones(len(norms)), abs=1e-6)


def test_a_table_says_in_which_precision_it_was_made(table):
    assert table_metadata(table[1])["precision"] == "bf16"


def rewrite(file, change):
    old = pq.read_table(file)
    new = change(old)
    pq.write_table(new.replace_schema_metadata(old.schema.metadata), file)


def with_embedding(row, value):
    def change(table):
        rows = [None if r is None else np.array(r, np.float16) for r in table["embedding"].to_pylist()]
        rows[row] = value if value is None else np.full(DIM, value, np.float16)
        return table.set_column(table.schema.get_field_index("embedding"), "embedding", embedding_column(rows, DIM))

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: pa.concat_tables([t, t.slice(7, 1)]), "has 7.jpg twice"),
        (lambda t: pa.concat_tables([t, t]), "has 0.jpg twice"),
        (lambda t: t.slice(1), "has no row of 0.jpg any more"),
        (with_embedding(4, np.nan), "the embedding of 4.jpg is not of unit length"),
        (with_embedding(4, np.inf), "the embedding of 4.jpg is not of unit length"),
        (with_embedding(4, 3.0), "the embedding of 4.jpg is not of unit length"),
        (with_embedding(4, 0.0), "the embedding of 4.jpg is not of unit length"),
        (with_embedding(4, None), "the embedding of 4.jpg is not of unit length"),
        (lambda t: t.drop_columns(["error"]), "has no column error of text"),
        (lambda t: t.drop_columns(["embedding"]), "has no column embedding of a fixed width"),
        (
            lambda t: t.set_column(4, "embedding", pa.array(t["embedding"].to_pylist(), pa.list_(pa.float32()))),
            "has no column embedding of a fixed width",
        ),
    ],
)
def test_a_table_that_is_not_as_it_was_written_is_refused(table, change, said):
    file, whole, _ = table
    rewrite(file, change)
    with pytest.raises(DataError, match=said) as error:
        read_table_features(whole)
    assert "write it again with flip embed -o" in str(error.value)


def test_a_selection_does_not_see_what_is_wrong_with_other_rows(table):
    file, whole, _ = table
    rewrite(file, with_embedding(4, np.nan))
    assert len(read_table_features(whole.take([1, 2, 3]))) == 3


@pytest.mark.parametrize("seed", range(3))
def test_a_bit_that_flips_is_noticed(table, seed):
    file, whole, _ = table
    before, refused = read_table_features(whole), 0
    content = file.read_bytes()
    for position in np.random.default_rng(seed).integers(0, 8 * len(content), 60):
        flipped = bytearray(content)
        flipped[position // 8] ^= 1 << position % 8
        file.write_bytes(flipped)
        try:
            found = read_table_features(whole)
        except DataError:
            refused += 1
        else:
            assert (found.image_features == before.image_features).all()
            assert found.errors == before.errors
    assert refused > 20


def test_a_large_table_is_read_into_the_array_that_it_lives_in(tmp_path, monkeypatch):
    """Beside the features there is never another array of their size."""
    n = 40_000
    rows = np.random.default_rng(0).standard_normal((n, 64)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    records = tuple(Record(f"{i}.jpg", 0, "train") for i in range(n))
    data = Dataset(tmp_path, "manifest", ("a",), ("a",), records)
    write_table(tmp_path / "t", make_features(data, rows, [None] * n, "f" * 16), data, "m")
    whole = Dataset(tmp_path, "embeddings", ("a",), ("a",), records, embeddings=tmp_path / "t")
    largest, real = [], np.zeros

    def zeros(shape, *args, **more):
        made = real(shape, *args, **more)
        largest.append(made.nbytes)
        return made

    monkeypatch.setattr(np, "zeros", zeros)
    monkeypatch.setattr(np, "concatenate", lambda *_: pytest.fail("a copy of the features"))
    found = read_table_features(whole)
    assert sum(size == rows.nbytes for size in largest) == 1
    assert found.image_features == pytest.approx(rows, abs=2e-3)
