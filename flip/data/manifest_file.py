"""Datasets as manifests: one row per photo, which ``--data`` reads back."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

from flip.data.classnames import clean_class_names
from flip.data.dataset import Dataset, Record
from flip.errors import ConfigError, DataError
from flip.files import json_text, write_text
from flip.mounts import mounted
from flip.reading import state_of
from flip.remote import url_of


def write_manifest(dataset: Dataset, file: Path) -> None:
    """Write a dataset as a manifest: path, label, split, captions, box, source and frame.

    Paths are relative to the manifest where the photo lies below its folder, else absolute. Labels are as folders or
    columns wrote them where reading cleans them to the same names, else the clean names.

    Parameters
    ----------
    dataset : Dataset
    file : Path
        Ends in .jsonl or .csv.

    Raises
    ------
    ConfigError
        If the name has another suffix, or the file cannot be written.
    DataError
        If the dataset has no photo.
    """
    require_manifest_name(file)
    if not dataset.records:
        raise DataError(f"no photo is left of {dataset.root}, so {file} is not written")
    same = clean_class_names(dataset.raw_names) == dataset.classnames
    labels = dataset.raw_names if same else dataset.classnames
    folder = file.absolute().parent
    rows = [_row(dataset, record, labels, folder) for record in dataset.records]
    if file.suffix == ".jsonl":
        text = "".join(json_text(row) + "\n" for row in rows)
    else:
        text = _csv(rows)
    write_text(file, text)


def require_manifest_name(file: Path) -> None:
    """Raise a ConfigError unless a manifest can have this name."""
    if file.suffix not in (".jsonl", ".csv"):
        raise ConfigError(f"{file} is no manifest; pass a name that ends in .jsonl or .csv")


def _row(dataset: Dataset, record: Record, labels: tuple[str, ...], folder: Path) -> dict[str, object]:
    row: dict[str, object] = {
        "path": _path(dataset.file(record).absolute(), folder),
        "label": labels[record.label],
        "split": record.split,
    }
    if record.captions:
        row["captions"] = list(record.captions)
    if record.box is not None:
        row |= dict(zip("xywh", record.box, strict=True))
    if record.source is not None:
        row["source"] = record.source
    if record.frame is not None:
        row["frame"] = " ".join(f"{number:g}" for number in record.frame)
    return row


def _path(photo: Path, folder: Path) -> str:
    """Return a photo's path relative to the manifest's folder where it lies below it, its URL where it has one."""
    if not photo.exists() and mounted(photo) is not None and url_of(name := state_of(photo).name):
        return name
    return (photo.relative_to(folder) if photo.is_relative_to(folder) else photo).as_posix()


def _csv(rows: list[dict[str, object]]) -> str:
    columns = dict.fromkeys(name for row in rows for name in row)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(columns), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        cells = {"captions": json.dumps(row["captions"], ensure_ascii=False)} if "captions" in row else {}
        writer.writerow(row | cells)
    return text.getvalue()
