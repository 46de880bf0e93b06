from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flip.data.dataset import Record
from flip.data.layouts.embeddings import is_embeddings, read_embeddings
from flip.data.layouts.manifest import read_manifest
from flip.data.settings import ReadSettings
from flip.data.splits import hash_splits
from flip.errors import DataError, FeatureMismatchError

Draw = Callable[..., Path]
Write = Callable[[str, str], Path]

ROWS = [
    {"path": "a/1.jpg", "label": "Red_Wren", "split": "train", "caption": 'a "small", red bird\nin a tree'},
    {"path": "a/2.jpg", "label": "Red_Wren", "split": "valid", "caption": ""},
    {"path": "b/ü 1.jpg", "label": "Möwe", "split": "test", "caption": "eine Möwe"},
]
RECORDS = (
    Record("a/1.jpg", 1, "train", ('a "small", red bird\nin a tree',)),
    Record("a/2.jpg", 1, "val"),
    Record("b/ü 1.jpg", 0, "test", ("eine Möwe",)),
)


@pytest.fixture(autouse=True)
def photos(draw: Draw) -> None:
    for row in ROWS:
        draw(row["path"])


def written(folder: Path, suffix: str, rows: list[dict[str, object]], encoding: str = "utf-8") -> Path:
    file = folder / f"photos{suffix}"
    if suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), file)
    elif suffix == ".jsonl":
        file.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding=encoding)
    else:
        with file.open("w", encoding=encoding, newline="") as lines:
            writer = csv.DictWriter(lines, rows[0].keys(), delimiter="\t" if suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    return file


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_every_kind_of_file_gives_the_same_records(tmp_path: Path, suffix: str, encoding: str) -> None:
    dataset = read_manifest(written(tmp_path, suffix, ROWS, encoding))
    assert dataset.records == RECORDS
    assert dataset.layout == "manifest"
    assert dataset.classnames == ("Möwe", "Red Wren")
    assert dataset.raw_names == ("Möwe", "Red_Wren")
    assert dataset.root == tmp_path


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_several_captions_are_a_list(tmp_path: Path, suffix: str) -> None:
    rows = [{"path": "a/1.jpg", "label": "x", "captions": ["one, two", "three"]}]
    if suffix == ".csv":
        rows[0]["captions"] = json.dumps(rows[0]["captions"])
    assert read_manifest(written(tmp_path, suffix, rows)).records[0].captions == ("one, two", "three")


def test_a_caption_in_brackets_is_a_caption(tmp_path: Path) -> None:
    file = written(tmp_path, ".jsonl", [{"path": "a/1.jpg", "label": "x", "text": "[a bird]"}])
    assert read_manifest(file).records[0].captions == ("[a bird]",)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_boxes_are_read_and_may_be_empty(tmp_path: Path, suffix: str) -> None:
    empty = "" if suffix == ".csv" else None
    rows = [
        {"file_name": "a/1.jpg", "label": "x", "x": 1, "y": 2.5, "w": 3, "h": 4},
        {"file_name": "a/2.jpg", "label": "x", "x": empty, "y": empty, "w": empty, "h": empty},
    ]
    assert [r.box for r in read_manifest(written(tmp_path, suffix, rows)).records] == [(1.0, 2.5, 3.0, 4.0), None]


@pytest.mark.parametrize("box", ["1, 2, 3, 4", "[1, 2, 3, 4]"])
def test_a_box_may_be_one_column(tmp_path: Path, box: str) -> None:
    file = written(tmp_path, ".csv", [{"path": "a/1.jpg", "label": "x", "bbox": box}])
    assert read_manifest(file).records[0].box == (1.0, 2.0, 3.0, 4.0)


def test_labels_may_be_numbers_in_numeric_order(tmp_path: Path) -> None:
    rows = [{"path": row["path"], "label": label} for row, label in zip(ROWS, (10, 9, None), strict=True)]
    with pytest.raises(DataError, match=r"photos.parquet:3: no label; every row needs one"):
        read_manifest(written(tmp_path, ".parquet", rows))
    dataset = read_manifest(written(tmp_path, ".parquet", rows[:2]))
    assert dataset.classnames == ("9", "10")
    # pandas writes whole numbers as floats where a cell of the column is empty.
    assert read_manifest(written(tmp_path, ".jsonl", [{"path": "a/1.jpg", "label": 3.0}])).classnames == ("3",)


def test_absolute_paths_are_shortened_below_the_manifest_and_kept_elsewhere(tmp_path: Path, draw: Draw) -> None:
    rows = [{"path": str(tmp_path / "a" / "1.jpg"), "label": "x"}, {"path": "./a/2.jpg", "label": "x"}]
    assert [r.path for r in read_manifest(written(tmp_path, ".csv", rows)).records] == ["a/1.jpg", "a/2.jpg"]
    inner = tmp_path / "inner"
    inner.mkdir()
    rows[1]["path"] = "../a/2.jpg"
    dataset = read_manifest(written(inner, ".csv", rows))
    assert [r.path for r in dataset.records] == [str(tmp_path / "a" / "1.jpg"), "../a/2.jpg"]
    assert all(dataset.file(r).is_file() for r in dataset.records)


def test_a_manifest_in_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    written(tmp_path, ".csv", [{"path": str(tmp_path / "a" / "1.jpg"), "label": "x"}])
    assert read_manifest(Path("photos.csv")).records[0].path == "a/1.jpg"


def test_without_a_split_column_the_hash_decides(tmp_path: Path, draw: Draw) -> None:
    paths = [f"c/{i}.jpg" for i in range(20)]
    for path in paths:
        draw(path)
    file = written(tmp_path, ".csv", [{"path": path, "label": "x"} for path in paths])
    assert [r.split for r in read_manifest(file, ReadSettings(test_fraction=0.5)).records] == hash_splits(
        paths, [0] * 20, 0.5
    )


def test_columns_are_found_in_any_case_and_others_left_alone(tmp_path: Path, write: Write) -> None:
    file = write("photos.csv", "id,Path, Label \n7,a/1.jpg,x\n\n8,a/2.jpg,y\n")
    assert [r.path for r in read_manifest(file).records] == ["a/1.jpg", "a/2.jpg"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "m.csv",
            "photo,label\na/1.jpg,x\n",
            r"m.csv has no column 'path' or 'file_name'; it has photo, label; rename",
        ),
        ("m.csv", "path,species\na/1.jpg,x\n", r"m.csv has no column 'label'; it has path, species; rename"),
        ("m.jsonl", '{"path": "a/1.jpg", "kind": 1}\n', r"m.jsonl has no column 'label'; it has path, kind; rename"),
        ("m.csv", "path,label\n", r"m.csv has no rows; it needs one for each photo, with path and label"),
        ("m.csv", "", r"m.csv has no rows"),
        (
            "m.csv",
            "path,label\na/1.jpg,x\na/9.jpg,x\n",
            r"m.csv:3: no file 'a/9.jpg' \(paths are relative to .*, or absolute\)",
        ),
        (
            "m.csv",
            "path,label\na/1.jpg,x\na/1.jpg,y\n",
            r"m.csv:3: 'a/1.jpg' is on line 2 already; several captions go in one",
        ),
        ("m.csv", 'path,label,text\na/1.jpg,x,"two\nlines"\na/9.jpg,x,\n', r"m.csv:4: no file 'a/9.jpg'"),
        ("m.csv", "path,label\na/1.jpg,x,y\n", r"m.csv:2: 3 cells, but the header has 2"),
        ("m.csv", "path,label\na/1.jpg,\n", r"m.csv:2: no label; every row needs one"),
        ("m.csv", "path,label\n,x\n", r"m.csv:2: no path; every row needs one"),
        ("m.csv", "path,label,split\na/1.jpg,x,fold3\n", r"m.csv:2: unknown split 'fold3'; write one of train"),
        ("m.csv", "path,label,split\na/1.jpg,x,\n", r"m.csv:2: no split; write train, val or test in every row"),
        ("m.csv", "path,label,x,y,w,h\na/1.jpg,c,1,2,3,wide\n", r"m.csv:2: box .*'wide'.* is not four numbers"),
        ("m.csv", "path,label,x,y,w,h\na/1.jpg,c,1,2,3,\n", r"m.csv:2: box .* is not four numbers"),
        ("m.jsonl", '{"path": "a/1.jpg", "label": "x"}\n{"path"\n', r"m.jsonl:2: not JSON"),
        ("m.jsonl", '\n["a/1.jpg"]\n', r"m.jsonl:2: a JSON list; each line must be an object"),
        (
            "m.jsonl",
            '{"path": "a/1.jpg", "label": "x", "text": 5}\n',
            r"m.jsonl:1: caption '5' is neither a string nor a list",
        ),
        ("m.jsonl", '{"path": "a/1.jpg", "label": "x"}\n{"label": "x"}\n', r"m.jsonl:2: no path; every row needs one"),
        ("m.parquet", "not parquet", r"m.parquet is not a Parquet file"),
        ("m.xlsx", "PK", r"m.xlsx is no table that flip reads; it must end in one of .csv, .tsv, .jsonl, .parquet"),
    ],
)
def test_what_is_wrong_is_named_with_file_and_line(write: Write, name: str, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read_manifest(write(name, text))
    assert "\n" not in str(caught.value)


def test_a_parquet_file_without_the_column_names_those_it_has(tmp_path: Path) -> None:
    file = written(tmp_path, ".parquet", [{"path": "a/1.jpg", "image": b"...", "species": "x"}])
    with pytest.raises(DataError, match=r"has no column 'label'; it has path, image \(bytes\), species"):
        read_manifest(file)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_a_file_that_is_not_utf8_is_named(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(DataError, match=r"is not UTF-8 \(byte \d+\); save it as UTF-8"):
        read_manifest(written(tmp_path, suffix, ROWS, "latin-1"))


def embedded(file: Path, rows: list[tuple[str, str | None, str]], fingerprint: str = "f1", **about: object) -> Path:
    """Write a table as ``flip embed -o`` does."""
    table = pa.table(
        {
            "path": [row[0] for row in rows],
            "label": pa.array([row[1] for row in rows], pa.string()),
            "split": [row[2] for row in rows],
            "captions": pa.array([["a", "b"] for _ in rows], pa.list_(pa.string())),
            "embedding": pa.array([[1.0, 0.0] for _ in rows], pa.list_(pa.float16(), 2)),
            "error": pa.array([None for _ in rows], pa.string()),
        }
    )
    says = {
        "fingerprint": fingerprint,
        "model": "m",
        "classnames": ["Red Wren", "Gull"],
        "raw_names": ["002.Red_Wren", "001.Gull"],
        "root": "/gone",
        "layout": "cub",
        **about,
    }
    file.parent.mkdir(exist_ok=True)
    pq.write_table(table.replace_schema_metadata({b"flip": json.dumps(says).encode()}), file)
    return file


def test_embeddings_are_read_in_the_order_of_files_and_rows_without_photos(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    embedded(folder / "part-1.parquet", [("z.jpg", "001.Gull", "test")])
    embedded(folder / "part-0.parquet", [("b.jpg", "002.Red_Wren", "train"), ("a.jpg", "001.Gull", "val")])
    dataset = read_embeddings(folder)
    assert dataset.records == (
        Record("b.jpg", 0, "train", ("a", "b")),
        Record("a.jpg", 1, "val", ("a", "b")),
        Record("z.jpg", 1, "test", ("a", "b")),
    )
    assert dataset.classnames == ("Red Wren", "Gull")
    assert (dataset.layout, dataset.embeddings, dataset.root) == ("embeddings", folder, Path("/gone"))


def test_one_file_of_embeddings(tmp_path: Path) -> None:
    file = embedded(tmp_path / "out" / "e.parquet", [("a.jpg", "001.Gull", "train")])
    assert read_embeddings(file).embeddings == file
    assert is_embeddings(file)


def test_a_manifest_is_no_table_of_embeddings(tmp_path: Path) -> None:
    file = written(tmp_path, ".parquet", ROWS)
    assert not is_embeddings(file)
    assert not is_embeddings(tmp_path / "a")
    with pytest.raises(DataError, match="was not written by flip embed -o, and has no column of float lists"):
        read_embeddings(file)


@pytest.mark.parametrize("other", [{"fingerprint": "f2"}, {"classnames": ["Wren", "Gull"]}])
def test_embeddings_of_two_models_or_class_lists_are_not_mixed(tmp_path: Path, other: dict[str, object]) -> None:
    embedded(tmp_path / "out" / "0.parquet", [("a.jpg", "001.Gull", "train")])
    embedded(tmp_path / "out" / "1.parquet", [("b.jpg", "001.Gull", "train")], **other)
    with pytest.raises(FeatureMismatchError, match=r"1.parquet has another model or other classes than .*0.parquet"):
        read_embeddings(tmp_path / "out")


@pytest.mark.parametrize("row", [("a.jpg", None, "train"), ("a.jpg", "owl", "train"), ("a.jpg", "001.Gull", "later")])
def test_embeddings_without_labels_or_splits_are_refused(tmp_path: Path, row: tuple[str, str | None, str]) -> None:
    file = embedded(tmp_path / "out" / "0.parquet", [("b.jpg", "001.Gull", "train"), row])
    with pytest.raises(DataError, match=r"0.parquet:2: label .*; embed a labelled dataset with --data"):
        read_embeddings(file)


def test_embeddings_without_rows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no rows; write it again with flip embed -o"):
        read_embeddings(embedded(tmp_path / "out" / "0.parquet", []))


def test_the_shared_manifest(shared: Path) -> None:
    dataset = read_manifest(shared / "data" / "birds-clean.jsonl")
    assert dataset.splits == {"train": 396, "test": 405}
    assert len(dataset.classnames) == 30


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_the_source_of_a_generated_image_is_read_from_every_kind_of_file(tmp_path: Path, suffix: str) -> None:
    rows = [{"path": "a/1.jpg", "label": "x", "source": "b/1.jpg"}, {"path": "a/2.jpg", "label": "x", "source": ""}]
    assert [r.source for r in read_manifest(written(tmp_path, suffix, rows)).records] == ["b/1.jpg", None]
