"""Stanford Cars (Krause et al., 2013): photos by number, labels in MATLAB files, in its two published shapes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from flip.arrays import Array
from flip.data.archives import Archive, Entry, archive_dataset, corners, find_base, require_base
from flip.data.dataset import Dataset
from flip.data.files import list_files
from flip.data.formats import is_image_file
from flip.data.layout import Layout
from flip.data.ledger import Ledger
from flip.data.matlab import read_mat, require_fields
from flip.data.settings import DEFAULTS, ReadSettings

_FOLDERS = ("stanford_cars", "stanford-cars", "StanfordCars", "cars")
_DEVKITS = ("devkit", "car_devkit/devkit")
_TEST_LABELS = "cars_test_annos_withlabels.mat"
_CORNERS = ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2")


def find_cars(root: Path) -> Path | None:
    """Return the folder that holds Stanford Cars in either shape: the folder itself, or one in it; None if neither."""
    shapes = [("cars_annos.mat", "car_ims"), *((f"{d}/cars_meta.mat", f"{d}/cars_train_annos.mat") for d in _DEVKITS)]
    found = (find_base(root, _FOLDERS, *needed) for needed in shapes)
    return next((base for base in found if base is not None), None)


def read_cars(root: Path, settings: ReadSettings = DEFAULTS) -> Dataset:
    """Read Stanford Cars with its official split: 196 classes, 8,144 photos to train on and 8,041 to test.

    Either ``car_ims/`` and ``cars_annos.mat``, or ``cars_train/``, ``cars_test/`` and the devkit. The devkit has no
    labels of the test photos: without ``cars_test_annos_withlabels.mat``, beside or inside it, they are left out.

    Raises
    ------
    DataError
        If a file cannot be read, or names a photo or class that is not there.
    """
    needed = "car_ims/ and cars_annos.mat, or devkit/cars_meta.mat and devkit/cars_train_annos.mat"
    base = require_base(find_cars(root), root, "Stanford Cars", needed)
    ledger = Ledger()
    whole = base / "cars_annos.mat"
    if whole.is_file() and (base / "car_ims").is_dir():
        names, rows = read_mat(whole, "class_names", "annotations")
        require_fields(whole, rows, "relative_im_path", "class", "test", *_CORNERS)
        entries = list(_entries(whole, "", rows, "relative_im_path"))
    else:
        devkit = next(base / name for name in _DEVKITS if (base / name / "cars_meta.mat").is_file())
        (names,) = read_mat(devkit / "cars_meta.mat", "class_names")
        entries = list(_parts(base, devkit, ledger))
    classes = {str(i): str(name).strip() for i, name in enumerate(names, 1)}
    return archive_dataset(Archive(root, base, LAYOUT.name), classes, entries, ledger, classnames=classes)


def _parts(base: Path, devkit: Path, ledger: Ledger) -> Iterator[Entry]:
    """Yield the training photos, and the test photos where there is a file of their labels."""
    tests = [place / _TEST_LABELS for place in (base, devkit)]
    parts = [("train", devkit / "cars_train_annos.mat"), *(("test", file) for file in tests if file.is_file())][:2]
    for split, file in parts:
        (rows,) = read_mat(file, "annotations")
        require_fields(file, rows, "fname", "class", *_CORNERS)
        yield from _entries(file, _photo_folder(base, split), rows, "fname", split)
    if len(parts) == 1:
        folder = _photo_folder(base, "test")
        there = [path for path in list_files(base / folder) if is_image_file(path)] if (base / folder).is_dir() else []
        kind = f"test photos without labels (there is no {_TEST_LABELS})"
        if there:
            ledger.omit(kind, f"{folder}{there[0]}", len(there))
        else:
            ledger.note(f"only the training photos are read: there is no {_TEST_LABELS}")


def _photo_folder(base: Path, split: str) -> str:
    """Return the folder of a split's photos: ``cars_train/``, or one of that name in it."""
    inner = f"cars_{split}/cars_{split}/"
    return inner if (base / inner).is_dir() else f"cars_{split}/"


def _entries(file: Path, folder: str, rows: Array, column: str, split: str = "") -> Iterator[Entry]:
    for number, row in enumerate(rows, 1):
        x1, y1, x2, y2 = (float(row[name]) for name in _CORNERS)
        part = split or ("test" if int(row["test"]) else "train")
        yield Entry(
            f"{file}: annotation {number}",
            f"{folder}{row[column]}",
            str(int(row["class"])),
            part,
            corners(x1, y1, x2, y2),
        )


LAYOUT = Layout(
    "stanford-cars",
    lambda root: find_cars(root) is not None,
    read_cars,
    "Stanford Cars",
    index_files=(
        ("cars_annos.mat",),
        *((f"{name}/cars_meta.mat", f"{name}/cars_train_annos.mat") for name in _DEVKITS),
    ),
)
