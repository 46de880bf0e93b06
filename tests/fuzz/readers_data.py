"""Readers of photos, tables, class lists and the layouts of datasets."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from flip.classify.groups import read_candidates, read_groups
from flip.clip.class_list import read_class_list
from flip.clip.prompts import class_prompts
from flip.data.dataset import Dataset
from flip.data.images import decode_image, image_size
from flip.data.open import open_dataset
from flip.data.table_files import read_table
from flip.data.text import nfc, path_lines
from flip.errors import DataError
from flip.reading import read_bytes
from tests.fuzz.campaign import Reader

CLASSES = ("Sea Gull", "Red Wren", "Blue Jay")
FOLDERS = ("001.Sea_Gull", "002.Red_Wren", "003.Blue_Jay")


def picture(seed: int, size: tuple[int, int] = (24, 20), mode: str = "RGB") -> Image.Image:
    """A small picture, another for every seed."""
    rng = np.random.default_rng(seed)
    image = Image.fromarray(rng.integers(0, 256, (*reversed(size), 3), np.uint8))
    return image.convert(mode) if mode != "I;16" else Image.fromarray(rng.integers(0, 60000, size[::-1], np.uint16))


def photo(file: Path, seed: int = 0, **save: Any) -> Path:
    """Write a small picture."""
    file.parent.mkdir(parents=True, exist_ok=True)
    picture(seed).save(file, **save)
    return file


def text(file: Path, content: str) -> Path:
    """Write a text file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content, encoding="utf-8")
    return file


def make_photos(folder: Path) -> None:
    """One file of every format and of every kind that is decoded in its own way."""
    exif = Image.Exif()
    exif[274] = 6
    photo(folder / "plain.jpg", exif=exif)
    photo(folder / "progressive.jpg", 1, progressive=True)
    photo(folder / "plain.webp", 2)
    photo(folder / "lossless.webp", 2, lossless=True)
    photo(folder / "plain.bmp", 3)
    photo(folder / "plain.gif", 4)
    photo(folder / "packed.tif", 5, compression="tiff_deflate")
    photo(folder / "jpeg.tif", 5, compression="jpeg")
    photo(folder / "plain.ppm", 6)
    photo(folder / "plain.tga", 7)
    photo(folder / "plain.ico", 8)
    photo(folder / "plain.jp2", 9)
    photo(folder / "plain.avif", 9)
    photo(folder / "plain.dds", 9)
    photo(folder / "plain.qoi", 9)
    photo(folder / "plain.sgi", 9)
    photo(folder / "plain.pcx", 9)
    photo(folder / "plain.icns", 9)
    for mode, name in (("P", "palette"), ("LA", "grey"), ("RGBA", "clear"), ("1", "bits"), ("I;16", "deep")):
        picture(10, mode=mode).save(folder / f"{name}.png")
    picture(10, mode="CMYK").save(folder / "cmyk.jpg")
    picture(10).save(folder / "moves.gif", save_all=True, append_images=[picture(11), picture(12)])


def read_photos(folder: Path) -> dict[str, object]:
    """Decode every photo: a size, or an error for each."""
    seen: dict[str, object] = {}
    for file in sorted(folder.iterdir()):
        try:
            image = decode_image(file)
            image_size(file)
            assert image.mode == "RGB", image.mode
            seen[file.name] = np.asarray(image).tobytes()
        except DataError as e:
            seen[file.name] = e
    broken = [e for e in seen.values() if isinstance(e, DataError)]
    if broken:
        raise broken[0]
    return seen


TABLE = "".join(
    f'images/{i}.jpg,"{name}",{"train" if i % 3 else "test"},"a {name}, seen ""{i}"" times"\n'
    for i, name in enumerate(CLASSES * 2)
)


def make_table(suffix: str) -> Callable[[Path], None]:
    """Write a table of six photos."""

    def make(folder: Path) -> None:
        for i in range(6):
            photo(folder / "images" / f"{i}.jpg", i)
        header = "path,label,split,caption\n"
        rows = list(csv.DictReader(io.StringIO(header + TABLE)))
        if suffix == ".csv":
            text(folder / "table.csv", header + TABLE)
        elif suffix == ".tsv":
            lines = ("\t".join(row.values()).replace('"', "") for row in rows)
            text(folder / "table.tsv", "\n".join([header.strip().replace(",", "\t"), *lines, ""]))
        elif suffix == ".jsonl":
            text(folder / "table.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
        else:
            table = pa.Table.from_pylist(rows)
            pq.write_table(table, folder / "table.parquet", write_page_checksum=True)

    return make


def summary(dataset: Dataset) -> dict[str, Any]:
    """Comparable summary of a dataset."""
    return {
        "classes": dataset.classnames,
        "rows": [(r.path, dataset.classnames[r.label], r.split, r.captions, r.box) for r in dataset.records],
        "notes": dataset.notes,
        "left out": [str(omission) for omission in dataset.left_out],
    }


def opened(name: str = "") -> Callable[[Path], Any]:
    """Open a folder, or a file in it, as a dataset."""
    return lambda folder: summary(open_dataset(folder / name if name else folder, cache=folder.parent / "cache"))


def same_as_csv(folder: Path, value: Any, usual: Any) -> str | None:
    """A csv or tsv file must give the rows, and their captions, that Python's strict reader gives."""
    file = next(folder.glob("table.*"))
    content = "\n".join(text_lines(file))
    parsed = csv.reader(io.StringIO(content, newline=""), delimiter="\t" if file.suffix == ".tsv" else ",", strict=True)
    try:
        header, *rows = [row for row in parsed if any(map(str.strip, row))]
    except csv.Error as e:
        return f"read what Python's reader refuses: {e}"
    if len(header) < 3 or value["left out"]:
        return None  # another separator; or rows that were said to be left out
    if len(value["rows"]) != len(rows):
        return f"{len(value['rows'])} rows of {len(rows)}"
    names = [name.strip().lower() for name in header]
    captions = [row[names.index("caption")].strip() for row in rows] if "caption" in names else []
    read = [" ".join(row[3]) for row in value["rows"]]
    return None if not captions or captions == read or "[" in "".join(captions) else f"{read} instead of {captions}"


def same_as_jsonl(folder: Path, value: Any, usual: Any) -> str | None:
    """Every line that is not blank is a row, or was said to be left out."""
    lines = [line for line in text_lines(folder / "table.jsonl") if line.strip()]
    paths = {json.loads(line).get("path") for line in lines}
    if len(value["rows"]) != len(lines) and not value["left out"]:
        return f"{len(value['rows'])} rows of {len(lines)} lines"
    return None if len(paths) >= len(value["rows"]) else "a row without a line"


def text_lines(file: Path) -> list[str]:
    """The lines of a text in any encoding that flip reads."""
    data = file.read_bytes()
    encoding = "utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    return data.decode(encoding).replace("\r\n", "\n").replace("\r", "\n").split("\n")


def equal(folder: Path, value: Any, usual: Any) -> str | None:
    """Values read equal those written."""
    return None if value == usual else f"{str(value)[:60]} instead of {str(usual)[:60]}"


def make_odd_parquet(folder: Path) -> None:
    """Columns of types that nobody expects."""
    paths = [str(photo(folder / f"{i}.jpg", i).name) for i in range(2)]
    odd: dict[str, pa.Array] = {
        "timestamp": pa.array([2**62, -(2**62)], pa.timestamp("us")),
        "date": pa.array([2**30, -(2**30)], pa.date32()),
        "lists": pa.array([["a"], None]),
        "struct": pa.array([{"a": 1}, None]),
        "binary": pa.array([b"\xff\xfe", b""]),
        "half": pa.array(np.array([1, np.nan], np.float16)),
        "nulls": pa.nulls(2),
        "decimal": pa.array([1, 2], pa.decimal128(38, 10)),
        "dictionary": pa.array(["a", "b"]).dictionary_encode(),
        "duration": pa.array([2**62, 1], pa.duration("us")),
    }
    for kind, column in odd.items():
        for name in ("label", "split", "caption", "bbox"):
            columns = {"path": pa.array(paths), "label": pa.array(["a", "b"]), name: column}
            pq.write_table(pa.table(columns), folder / f"{kind}-{name}.parquet")


def read_odd_parquet(folder: Path) -> int:
    """Open each; some are refused."""
    refused = 0
    for file in sorted(folder.glob("*.parquet")):
        try:
            read_table(file)
            open_dataset(file)
        except DataError:
            refused += 1
    return refused


def make_names(folder: Path) -> None:
    """Files that name classes, prompts, groups and captions."""
    text(folder / "classes.txt", "\n".join(CLASSES))
    text(folder / "table.csv", "label\n" + "\n".join(CLASSES))
    text(folder / "groups.csv", "class,genus\nSea Gull,gulls\nRed Wren,wrens\nBlue Jay,jays\n")
    text(folder / "candidates.txt", "Sea Gull\nRed Wren\n")
    text(folder / "prompts.txt", "a photo of a {}.\na drawing of a {}.\n")
    text(folder / "prompts.json", json.dumps({name: [f"a {name}", "white wings"] for name in CLASSES}))
    text(folder / "names.json", json.dumps({name: name.upper() for name in CLASSES}))
    text(folder / "names.csv", "".join(f"{name},{name.upper()}\n" for name in CLASSES))
    text(folder / "paths.list", "a.jpg\nb.jpg\r\nc d.jpg\n")


def read_names(folder: Path) -> Any:
    """Read them all as the options do."""
    from flip.data.renaming import rename_classes

    dataset = Dataset(folder, "", CLASSES, FOLDERS, ())
    paths = list(path_lines(io.BytesIO(read_bytes(folder / "paths.list")))) if (folder / "paths.list").is_file() else []
    return {
        "classes": read_class_list(folder / "classes.txt"),
        "table": read_class_list(folder / "table.csv"),
        "groups": [rank.groups for rank in read_groups(folder / "groups.csv", CLASSES, FOLDERS).ranks],
        "candidates": read_candidates(folder / "candidates.txt", CLASSES).allowed.tolist(),
        "templates": class_prompts(str(folder / "prompts.txt"), CLASSES).texts,
        "sentences": class_prompts(str(folder / "prompts.json"), CLASSES).texts,
        "names": rename_classes(dataset, folder / "names.json").classnames,
        "columns": rename_classes(dataset, folder / "names.csv").classnames,
        "paths": paths,
    }


def same_names(folder: Path, value: Any, usual: Any) -> str | None:
    """A list of classes is its lines."""
    data = (folder / "classes.txt").read_bytes()
    encoding = "utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    lines = io.StringIO(data.decode(encoding), newline=None).read().split("\n")
    expected = tuple(nfc(line.strip()) for line in lines if line.strip())
    return None if value["classes"] == expected else f"{len(value['classes'])} classes of {len(expected)} lines"


def make_cub(folder: Path) -> None:
    """CUB with six photos."""
    paths = [f"{name}/{name}_{i}.jpg" for name in FOLDERS for i in range(2)]
    for i, path in enumerate(paths):
        photo(folder / "images" / path, i)
        text(folder / "text" / path.replace(".jpg", ".txt"), f"a bird number {i}\nwith wings\n")
    text(folder / "images.txt", "".join(f"{i} {path}\n" for i, path in enumerate(paths, 1)))
    text(folder / "classes.txt", "".join(f"{i} {name}\n" for i, name in enumerate(FOLDERS, 1)))
    text(folder / "image_class_labels.txt", "".join(f"{i} {(i + 1) // 2}\n" for i in range(1, 7)))
    text(folder / "train_test_split.txt", "".join(f"{i} {i % 2}\n" for i in range(1, 7)))
    text(folder / "bounding_boxes.txt", "".join(f"{i} 1.0 2.0 10.0 9.0\n" for i in range(1, 7)))


def same_cub(folder: Path, value: Any, usual: Any) -> str | None:
    """Photos vanish only with their line."""
    if not (folder / "images.txt").is_file():
        return None if value["notes"] else "another layout, and no word of images.txt"
    lines = sum(bool(line.strip()) for line in text_lines(folder / "images.txt"))
    return None if len(value["rows"]) == lines else f"{len(value['rows'])} photos of {lines} lines"


def make_folders(suffix: str) -> Callable[[Path], None]:
    """Split folders with a metadata file of Hugging Face's ImageFolder."""

    def make(folder: Path) -> None:
        for split in ("train", "test"):
            rows = []
            for i, name in enumerate(FOLDERS * 2):
                photo(folder / split / name / f"{i}.jpg", i)
                rows.append({"file_name": f"{name}/{i}.jpg", "text": f"number {i}", "x": 1, "y": 1, "w": 5, "h": 5})
            if suffix == ".jsonl":
                text(folder / split / "metadata.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
            elif suffix == ".parquet":
                pq.write_table(pa.Table.from_pylist(rows), folder / split / "metadata.parquet")
            else:
                lines = (",".join(map(str, row.values())) for row in rows)
                text(folder / split / "metadata.csv", "\n".join([",".join(rows[0]), *lines, ""]))

    return make


def make_captions_folder(folder: Path) -> None:
    """An images folder with ``captions.json``."""
    for i, name in enumerate(FOLDERS * 2):
        photo(folder / "images" / name / f"{i}.jpg", i)
    captions = {f"{name}/{i}.jpg": [f"a {i}", "a bird"] for i, name in enumerate(FOLDERS * 2)}
    text(folder / "captions.json", json.dumps(captions))


def make_parquet_images(folder: Path) -> None:
    """Photos as bytes, as the hub has them."""
    for split in ("train", "test"):
        rows = []
        for i in range(4):
            content = io.BytesIO()
            picture(i).save(content, "PNG")
            rows.append({"image": {"bytes": content.getvalue(), "path": f"{i}.png"}, "label": i % 2, "text": f"no {i}"})
        about = {"info": {"features": {"label": {"names": ["gull", "wren"], "_type": "ClassLabel"}}}}
        table = pa.Table.from_pylist(rows).replace_schema_metadata({"huggingface": json.dumps(about)})
        (folder / "data").mkdir(exist_ok=True)
        pq.write_table(table, folder / "data" / f"{split}-00000-of-00001.parquet", write_page_checksum=True)


READERS = (
    Reader("photos", make_photos, read_photos, places=0.05, cost=2),
    Reader("csv", make_table(".csv"), opened("table.csv"), same_as_csv, "table.csv"),
    Reader("tsv", make_table(".tsv"), opened("table.tsv"), same_as_csv, "table.tsv"),
    Reader("jsonl", make_table(".jsonl"), opened("table.jsonl"), same_as_jsonl, "table.jsonl"),
    Reader("parquet", make_table(".parquet"), opened("table.parquet"), None, "table.parquet"),
    Reader("manifest photos", make_table(".csv"), opened("table.csv"), None, "images/*", places=1),
    Reader("odd parquet", make_odd_parquet, read_odd_parquet, cost=5),
    Reader("names", make_names, read_names, same_names),
    Reader("cub", make_cub, opened(), same_cub, "*.txt"),
    Reader("cub captions", make_cub, opened(), None, "text/**/*", places=0.3),
    Reader("cub photos", make_cub, opened(), None, "images/**/*", places=1),
    Reader("folders csv", make_folders(".csv"), opened(), None, "**/metadata.*"),
    Reader("folders jsonl", make_folders(".jsonl"), opened(), None, "**/metadata.*"),
    Reader("folders parquet", make_folders(".parquet"), opened(), None, "**/metadata.*"),
    Reader("folders photos", make_folders(".jsonl"), opened(), None, "**/*.jpg", places=1),
    Reader("captions json", make_captions_folder, opened(), None, "captions.json"),
    Reader("parquet images", make_parquet_images, opened(), None, cost=2),
)
