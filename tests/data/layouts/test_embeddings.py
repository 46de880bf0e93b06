"""Tables of embeddings that flip did not write: Parquet of any program, NumPy arrays with tables, and folders."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flip.data.dataset import Dataset
from flip.data.open import open_dataset
from flip.embed.extractor import extract_features
from flip.embed.table import is_of_unknown_model, read_table_features, table_metadata
from flip.errors import ConfigError, DataError, FlipError
from tests.embed.plain_encoder import PlainEncoder

N, WIDTH = 24, 6


def vectors(n: int = N, width: int = WIDTH, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).normal(0, 3, (n, width))


def columns(n: int = N) -> dict[str, list[Any]]:
    return {
        "path": [f"{'ab'[i % 2]}/photo {i}.jpg" for i in range(n)],
        "label": [f"{i % 2 + 1:03}.{('Red_Wren', 'Gull')[i % 2]}" for i in range(n)],
        "split": ["test" if i % 4 == 3 else "train" for i in range(n)],
    }


def lists(kind: pa.DataType, rows: np.ndarray[Any, Any]) -> pa.Array:
    return pa.array([list(row) for row in rows.astype(kind.value_type.to_pandas_dtype())], kind)


KINDS = {
    "fixed float16": pa.list_(pa.float16(), WIDTH),
    "fixed float32": pa.list_(pa.float32(), WIDTH),
    "fixed float64": pa.list_(pa.float64(), WIDTH),
    "list of float16": pa.list_(pa.float16()),
    "list of float": pa.list_(pa.float32()),
    "list of double": pa.list_(pa.float64()),
    "large list": pa.large_list(pa.float32()),
}


def written(file: Path, embedding: pa.Array | None = None, **more: Any) -> Path:
    """Write a table; ``None`` leaves a column out."""
    cells = {**columns(), "embedding": lists(KINDS["list of float"], vectors()) if embedding is None else embedding}
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({name: v for name, v in {**cells, **more}.items() if v is not None}), file)
    return file


def require_all(dataset: Dataset, rows: np.ndarray[Any, Any] | None = None) -> None:
    """Check that a dataset has every photo with its own embedding, label and split."""
    rows = vectors() if rows is None else rows
    features = read_table_features(dataset)
    assert list(features.paths) == columns()["path"]
    assert [features.classnames[c] for c in features.labels] == ["Red Wren", "Gull"] * (N // 2)
    assert list(features.splits) == columns()["split"]
    assert features.image_features.dtype == np.float32
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    assert features.image_features == pytest.approx(unit, abs=2e-3)
    assert np.linalg.norm(features.image_features, axis=1) == pytest.approx(np.ones(N), abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_any_list_of_floats_is_an_embedding(tmp_path: Path, kind: str) -> None:
    dataset = open_dataset(written(tmp_path / "t.parquet", lists(KINDS[kind], vectors())))
    require_all(dataset)
    assert (dataset.layout, dataset.root) == ("embeddings", tmp_path)
    assert table_metadata(dataset)["fingerprint"] == "unknown-6"
    assert is_of_unknown_model(dataset)


def test_a_tensor_column_is_an_embedding(tmp_path: Path) -> None:
    tensor = pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(vectors(), np.float32))
    require_all(open_dataset(written(tmp_path / "t.parquet", tensor)))


@pytest.mark.parametrize("rows_a_group", [1, 7, 1000])
def test_row_groups_do_not_matter(tmp_path: Path, rows_a_group: int) -> None:
    file = written(tmp_path / "t.parquet")
    pq.write_table(pq.read_table(file), file, row_group_size=rows_a_group)
    require_all(open_dataset(file))


def test_a_part_of_the_rows_and_another_order(tmp_path: Path) -> None:
    dataset = open_dataset(written(tmp_path / "t.parquet"))
    all_of = read_table_features(dataset)
    for rows in ([5, 2, 20], [], range(N - 1, -1, -1)):
        assert (read_table_features(dataset.take(rows)).image_features == all_of.image_features[list(rows)]).all()


def test_a_folder_of_tables_is_one(tmp_path: Path) -> None:
    whole = pq.read_table(written(tmp_path / "t.parquet"))
    (tmp_path / "folder").mkdir()
    for i, begin in enumerate((0, 10, 11)):
        pq.write_table(whole.slice(begin, (10, 1, 13)[i]), tmp_path / "folder" / f"{i}.parquet")
    require_all(open_dataset(tmp_path / "folder"))


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_an_array_with_a_table_beside_it(tmp_path: Path, suffix: str, dtype: Any) -> None:
    np.save(tmp_path / "dino.npy", vectors().astype(dtype))
    table = tmp_path / f"dino{suffix}"
    rows = [dict(zip(columns(), cells, strict=True)) for cells in zip(*columns().values(), strict=True)]
    if suffix == ".parquet":
        pq.write_table(pa.table(columns()), table)
    elif suffix == ".jsonl":
        table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        mark = "," if suffix == ".csv" else "\t"
        table.write_text("\n".join([mark.join(columns()), *(mark.join(row.values()) for row in rows)]) + "\n")
    for data in (tmp_path / "dino.npy", tmp_path):
        require_all(open_dataset(data))


def clip_retrieval(folder: Path, *sizes: int) -> Path:
    """Write clip-retrieval's folders, in parts of these sizes."""
    for name in ("img_emb", "metadata"):
        (folder / name).mkdir(parents=True)
    begin, cells = 0, {"image_path" if name == "path" else name: values for name, values in columns().items()}
    for i, n in enumerate(sizes):
        np.save(folder / "img_emb" / f"img_emb_{i}.npy", vectors()[begin : begin + n].astype(np.float16))
        some = {name: values[begin : begin + n] for name, values in cells.items()}
        pq.write_table(pa.table(some), folder / "metadata" / f"metadata_{i}.parquet")
        begin += n
    return folder


@pytest.mark.parametrize("sizes", [(N,), (20, 4), (2,) * 12])
def test_the_folders_of_clip_retrieval(tmp_path: Path, sizes: tuple[int, ...]) -> None:
    """Of twelve parts the tenth does not come before the third."""
    require_all(open_dataset(clip_retrieval(tmp_path / "c", *sizes)))


def test_without_splits_the_hash_of_the_name_decides(tmp_path: Path) -> None:
    dataset = open_dataset(written(tmp_path / "t.parquet", split=None))
    assert set(dataset.splits) == {"train", "test"}
    assert sum(open_dataset(tmp_path / "t.parquet", test_fraction=0.0).splits.values()) == N
    assert "test" not in open_dataset(tmp_path / "t.parquet", test_fraction=0.0).splits
    cut = pq.read_table(tmp_path / "t.parquet").slice(3)
    pq.write_table(cut, tmp_path / "t.parquet")
    same = {record.path: record.split for record in open_dataset(tmp_path / "t.parquet").records}
    before = {record.path: record.split for record in dataset.records}
    assert sum(before[path] != split for path, split in same.items()) <= 1, "but for a class's only training photo"


def test_rows_without_a_path_are_named_by_their_number(tmp_path: Path) -> None:
    dataset = open_dataset(written(tmp_path / "t.parquet", path=None))
    assert [record.path for record in dataset.records[:2]] == ["t:1", "t:2"]
    assert len(read_table_features(dataset)) == N


@pytest.mark.parametrize(
    "names", [{"image_path": "path"}, {"class": "label"}, {"subset": "split"}, {"url": "path", "category": "label"}]
)
def test_columns_may_be_called_as_in_manifests(tmp_path: Path, names: dict[str, str]) -> None:
    more = {new: columns()[old] for new, old in names.items()} | dict.fromkeys(names.values())
    require_all(open_dataset(written(tmp_path / "t.parquet", **more)))


def test_labels_may_be_numbers_and_categories_and_names_any_text(tmp_path: Path) -> None:
    paths = [f"zaunkönig ’🐦 {i}" for i in range(N)]
    dataset = open_dataset(written(tmp_path / "t.parquet", label=[i % 3 for i in range(N)], path=paths))
    assert dataset.classnames == ("0", "1", "2")
    assert [record.path for record in dataset.records] == paths
    category = pa.array(columns()["label"]).dictionary_encode()
    require_all(open_dataset(written(tmp_path / "t.parquet", label=category)))


def test_captions_are_read(tmp_path: Path) -> None:
    dataset = open_dataset(written(tmp_path / "t.parquet", caption=[f"bird {i}" for i in range(N)]))
    assert dataset.records[3].captions == ("bird 3",)


def test_one_of_several_columns_is_chosen(tmp_path: Path) -> None:
    other = vectors(width=4, seed=1)
    file = written(tmp_path / "t.parquet", second=lists(KINDS["list of double"], other))
    with pytest.raises(ConfigError, match="several columns of embeddings, embedding, second; pass --embedding-column"):
        open_dataset(file)
    require_all(open_dataset(file, embedding_column="embedding"))
    assert read_table_features(open_dataset(file, embedding_column="second")).image_features.shape == (N, 4)
    for wrong, said in (("third", "no such embeddings; those of float lists are"), ("path", r"path \(string\)")):
        with pytest.raises(ConfigError, match=said):
            open_dataset(file, embedding_column=wrong)


def test_a_box_is_no_embedding(tmp_path: Path) -> None:
    boxes = lists(KINDS["list of float"], vectors(width=4))
    require_all(open_dataset(written(tmp_path / "t.parquet", bbox=boxes)))


def test_a_row_without_a_sound_embedding_is_a_row_with_an_error(tmp_path: Path) -> None:
    rows = vectors().astype(object)
    cells = [list(row) for row in rows]
    cells[1], cells[2], cells[3] = None, [float("nan")] * WIDTH, [0.0] * WIDTH
    cells[4][2], cells[5][0] = float("inf"), None
    cells[6] = [1e300] * WIDTH
    cells[7] = [1e-300] * WIDTH
    features = read_table_features(
        open_dataset(written(tmp_path / "t.parquet", pa.array(cells, KINDS["list of double"])))
    )
    assert [i for i, error in enumerate(features.errors) if error] == [1, 2, 3, 4, 5]
    assert features.errors[2:4] == ("it has no finite embedding", "its embedding is zero")
    assert not features.image_features[1:6].any()
    assert features.image_features[6:8] == pytest.approx(np.full((2, WIDTH), WIDTH**-0.5), abs=1e-6)


# Misfits are one line each.


def lengths_differ() -> pa.Array:
    return pa.array([[1.0] * (WIDTH - (i == 7)) for i in range(N)], pa.list_(pa.float32()))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"label": None}, "has no column 'label'; it has path, split"),
        ({"label": ["a"] * 4 + [None] + ["b"] * (N - 5)}, "t.parquet:5: no label; every row needs one"),
        ({"split": ["train"] * 4 + [None] + ["test"] * (N - 5)}, "t.parquet:5: no split"),
        ({"split": ["later"] * N}, "t.parquet:1: unknown split 'later'"),
        ({"path": ["a.jpg"] * 2 + columns()["path"][2:]}, "has a.jpg in rows 1 and 2; give each photo one row"),
        ({"path": [None, *columns()["path"][1:]]}, "t.parquet:1: no path"),
        ({"embedding": lengths_differ()}, "t.parquet:8: an embedding of 5 numbers, and the others have 6"),
        ({"embedding": pa.array([None] * N, pa.list_(pa.float32()))}, "has no embedding; every row is empty"),
        ({"embedding": pa.array([[]] * N, pa.list_(pa.float32()))}, "has no embedding; every row is empty"),
    ],
)
def test_a_table_that_cannot_be_meant_is_refused(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said) as error:
        read_table_features(open_dataset(written(tmp_path / "t.parquet", **change)))
    assert "\n" not in str(error.value)


def test_arrays_and_tables_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    array, table = tmp_path / "x.npy", tmp_path / "x.parquet"
    np.save(array, vectors())
    with pytest.raises(DataError, match="needs one table with a row for each embedding, x.csv, .*none is beside it"):
        open_dataset(array)
    pq.write_table(pa.table(columns()).slice(1), table)
    with pytest.raises(DataError, match="x.npy has 24 embeddings, and .*x.parquet 23 rows"):
        open_dataset(array)
    pq.write_table(pa.table(columns()), table)
    for wrong, said in (
        (np.arange(N), r"int64 of shape \(24,\)"),
        (vectors()[0], r"float64 of shape \(6,\)"),
        (np.array([{}], object), "is no NumPy array that can be read"),
    ):
        np.save(array, wrong, allow_pickle=True)
        with pytest.raises(DataError, match=said):
            open_dataset(array)
    array.write_bytes(b"\x93NUMPY, and no more")
    with pytest.raises(DataError, match="is no NumPy array that can be read"):
        open_dataset(array)
    np.save(array, vectors())
    (tmp_path / "x.csv").write_text("path,label\n")
    with pytest.raises(DataError, match="beside it are x.csv and x.parquet"):
        open_dataset(array)


def test_folders_of_clip_retrieval_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    folder = clip_retrieval(tmp_path / "c", 20, 4)
    (folder / "metadata" / "metadata_1.parquet").unlink()
    with pytest.raises(DataError, match="number 1 is in one of them only"):
        open_dataset(folder)
    pq.write_table(pa.table(columns()).slice(0, 3), folder / "metadata" / "metadata_1.parquet")
    with pytest.raises(DataError, match="img_emb_1.npy has 4 embeddings, and .*metadata_1.parquet 3 rows"):
        open_dataset(folder)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("img_emb_0", "img_emb_00"), "img_emb has img_emb_0.npy and img_emb_00.npy of one number"),
        (("a_1", "b_1"), "img_emb has a_1.npy and b_1.npy of one number"),
        (("img_emb_0", "more"), "more.npy has no number in its name, as img_emb_0.npy has"),
        (("more", "rest"), "more.npy has no number in its name"),
    ],
)
def test_parts_of_clip_retrieval_that_share_a_number_or_have_none_are_refused(
    tmp_path: Path, names: tuple[str, str], said: str
) -> None:
    folder = clip_retrieval(tmp_path / "c", 20, 4)
    for kind, stem, suffix in (("img_emb", "img_emb", ".npy"), ("metadata", "metadata", ".parquet")):
        for i, name in enumerate(names):
            (folder / kind / f"{stem}_{i}{suffix}").rename(folder / kind / f"{name}.{i}")
        for i, name in enumerate(names):
            (folder / kind / f"{name}.{i}").rename(folder / kind / f"{name}{suffix}")
    with pytest.raises(DataError, match=said):
        open_dataset(folder)


@pytest.mark.parametrize("names", [("label", "Label"), ("path", "PATH"), ("split", "split"), ("note", "Note")])
def test_a_column_that_is_there_twice_is_refused(tmp_path: Path, names: tuple[str, str]) -> None:
    cells = {**columns(), "embedding": lists(KINDS["list of float"], vectors()), "note": ["x"] * N}
    arrays = [*(pa.array(values) for values in cells.values()), pa.array(["x"] * N)]
    pq.write_table(pa.table(arrays, names=[*cells, names[1]]), tmp_path / "t.parquet")
    with pytest.raises(DataError, match=f"t.parquet has the column '{names[0]}' twice"):
        open_dataset(tmp_path / "t.parquet")


def test_files_of_two_widths_are_refused(tmp_path: Path) -> None:
    written(tmp_path / "f" / "a.parquet")
    other = {"path": [f"{i}" for i in range(N)]}
    written(tmp_path / "f" / "b.parquet", lists(pa.list_(pa.float32()), vectors(width=5)), **other)
    with pytest.raises(DataError, match="b.parquet:1: an embedding of 5 numbers, and the others have 6"):
        read_table_features(open_dataset(tmp_path / "f"))
    pq.write_table(pa.table(columns()), tmp_path / "f" / "b.parquet")
    with pytest.raises(DataError, match="b.parquet has no column of embeddings, and a.parquet has"):
        open_dataset(tmp_path / "f")


@pytest.mark.parametrize("seed", range(3))
def test_a_damaged_table_is_one_line(tmp_path: Path, seed: int) -> None:
    file = written(tmp_path / "t.parquet")
    content, rng = file.read_bytes(), np.random.default_rng(seed)
    for _ in range(20):
        broken = bytearray(content)
        for position in rng.integers(0, len(content), 8):
            broken[position] = rng.integers(256)
        file.write_bytes(broken)
        # Anything but an error of flip's own fails the test.
        with contextlib.suppress(FlipError):
            read_table_features(open_dataset(file))


def test_a_table_that_changes_between_is_noticed(tmp_path: Path) -> None:
    dataset = open_dataset(written(tmp_path / "t.parquet"))
    for change in (lambda t: t.slice(1), lambda t: pa.concat_tables([t, t])):
        written(tmp_path / "t.parquet")
        pq.write_table(change(pq.read_table(tmp_path / "t.parquet")), tmp_path / "t.parquet")
        with pytest.raises(DataError, match="rows and had 24; run the command again"):
            read_table_features(dataset)


def test_a_model_of_another_width_did_not_make_it(tmp_path: Path) -> None:
    dataset = open_dataset(written(tmp_path / "t.parquet"))
    with pytest.raises(FlipError, match="holds embeddings of 6 numbers, and plain makes 4"):
        read_table_features(dataset, PlainEncoder())
    narrow = written(tmp_path / "n.parquet", lists(pa.list_(pa.float32()), vectors(width=4)))
    assert read_table_features(open_dataset(narrow), PlainEncoder()).fingerprint == "plain-encoder"


def test_python_needs_no_model_for_a_table(tmp_path: Path, squares: Path) -> None:
    dataset = open_dataset(written(tmp_path / "t.parquet"))
    assert (extract_features(dataset).image_features == read_table_features(dataset).image_features).all()
    with pytest.raises(ConfigError, match="holds photos, which need a model"):
        extract_features(open_dataset(squares))


def test_a_manifest_and_photos_in_parquet_are_what_they_were(tmp_path: Path) -> None:
    pq.write_table(pa.table(columns()), tmp_path / "m.parquet")
    with pytest.raises(DataError, match="m.parquet:1: no file 'a/photo 0.jpg'"):
        open_dataset(tmp_path / "m.parquet")
    image = pa.array([{"bytes": b"x", "path": None}] * N)
    file = written(tmp_path / "i.parquet", image=image)
    assert open_dataset(file, cache=tmp_path / "c").layout == "parquet-images"
    require_all(open_dataset(file, embedding_column="embedding"))
