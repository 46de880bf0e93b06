"""Parquet files with the photos' bytes, as the Hugging Face hub has them."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from flip.data.images import decode_image
from flip.data.open import open_dataset
from flip.errors import DataError

NAMES = ["wren", "sea_gull", "owl"]


def photo(colour: str, format: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 6), colour).save(buffer, format)
    return buffer.getvalue()


def publish(
    file: Path, labels: list[object], *, names: list[str] | None = NAMES, struct: bool = True, **columns: list[object]
) -> Path:
    """Write a file as ``Dataset.push_to_hub`` does: a struct of bytes and path, and the features in the metadata."""
    photos = [photo("red", "PNG" if i % 2 else "JPEG") for i in range(len(labels))]
    images = [{"bytes": content, "path": f"{i}.jpg"} for i, content in enumerate(photos)] if struct else photos
    table = pa.table({"image": images, "label": labels, **columns})
    if names is not None:
        features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
        about = {"info": {"features": features}}
        table = table.replace_schema_metadata({b"huggingface": json.dumps(about).encode()})
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, file)
    return file


def test_a_folder_as_it_is_published(tmp_path: Path) -> None:
    publish(tmp_path / "birds" / "data" / "train-00000-of-00002.parquet", [0, 1, 1])
    publish(tmp_path / "birds" / "data" / "train-00001-of-00002.parquet", [1])
    publish(tmp_path / "birds" / "data" / "validation-00000-of-00001.parquet", [0], text=["a wren"])
    dataset = open_dataset(tmp_path / "birds", cache=tmp_path / "cache")
    assert str(dataset) == "parquet-images: 5 photos, 2 classes, train 4, val 1, captions for 1"
    assert dataset.raw_names == ("wren", "sea_gull")
    assert dataset.classnames == ("wren", "sea gull")
    assert dataset.labels.tolist() == [0, 1, 1, 1, 0]
    assert [record.path for record in dataset.records[:3]] == [
        "train-00000-of-00002/000000.jpg",
        "train-00000-of-00002/000001.png",
        "train-00000-of-00002/000002.jpg",
    ]
    assert {decode_image(dataset.file(record)).size for record in dataset.records} == {(8, 6)}
    assert [str(omission) for omission in dataset.left_out] == ["classes without photos (1), the first owl"]


def test_it_is_unpacked_once_and_again_when_it_changes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "flip")
    file = publish(tmp_path / "birds.parquet", [0, 1])
    first = open_dataset(file, cache=tmp_path / "cache")
    second = open_dataset(file, cache=tmp_path / "cache")
    assert first.records == second.records
    assert len([message for message in caplog.messages if message.startswith("unpacking")]) == 1
    publish(file, [0, 1, 2])
    assert len(open_dataset(file, cache=tmp_path / "cache")) == 3


@pytest.mark.parametrize("struct", [True, False])
def test_a_file_of_bytes_or_of_bytes_and_paths(tmp_path: Path, struct: bool) -> None:
    file = publish(tmp_path / "m.parquet", ["Wren", "Gull"], names=None, struct=struct)
    dataset = open_dataset(file, cache=tmp_path / "cache")
    assert dataset.layout == "parquet-images"
    assert dataset.classnames == ("Gull", "Wren")
    assert dataset.labels.tolist() == [1, 0]


def test_the_names_in_a_card(tmp_path: Path) -> None:
    publish(tmp_path / "birds" / "data" / "train-00000-of-00001.parquet", [0, 2], names=None)
    card = (
        "---\nlicense: mit\ndataset_info:\n  features:\n  - name: image\n    dtype: image\n  - name: label\n"
        "    dtype:\n      class_label:\n        names:\n          '0': red wren\n          '1': gull\n"
        "          '2': 'owl, great'\n"
        "  - name: other\n    dtype:\n      class_label:\n        names:\n          '0': x\n---\n# Birds\n'7': no\n"
    )
    (tmp_path / "birds" / "README.md").write_text(card)
    assert open_dataset(tmp_path / "birds", cache=tmp_path / "cache").classnames == ("red wren", "owl, great")


def test_numbers_without_names_are_names(tmp_path: Path) -> None:
    file = publish(tmp_path / "m.parquet", [10, 9], names=None)
    assert open_dataset(file, cache=tmp_path / "cache").classnames == ("9", "10")


def test_a_manifest_of_paths_stays_a_manifest(tmp_path: Path) -> None:
    (tmp_path / "1.jpg").write_bytes(photo("red"))
    pq.write_table(pa.table({"image": ["1.jpg"], "label": ["wren"]}), tmp_path / "m.parquet")
    assert open_dataset(tmp_path / "m.parquet").layout == "manifest"


def test_what_is_wrong_is_one_line(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    table = pa.table({"image": [photo("red")], "kind": ["wren"]})
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a.parquet has no column 'label'; it has image, kind; rename the one"):
        open_dataset(tmp_path / "a.parquet", cache=cache)
    with pytest.raises(DataError, match=r"label 7 has no name; the table names 3 classes"):
        open_dataset(publish(tmp_path / "b.parquet", [0, 7]), cache=cache)
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    images = pa.array([{"bytes": None, "path": "1.jpg"}], kind)
    pq.write_table(pa.table({"image": images, "label": ["a"]}), tmp_path / "c.parquet")
    with pytest.raises(DataError, match=r"c.parquet:1: no bytes of a photo; download the photos with the table"):
        open_dataset(tmp_path / "c.parquet", cache=cache)


def test_a_cache_that_cannot_be_written_is_a_note(tmp_path, caplog):
    (tmp_path / "file").write_text("x")
    dataset = open_dataset(publish(tmp_path / "d.parquet", [0]), cache=tmp_path / "file")
    assert Path(dataset.files[0]).read_bytes()
    assert "are unpacked for this run alone; pass --cache DIR, or set FLIP_CACHE" in caplog.text
