"""Stanford Dogs (Khosla et al., 2011): folders named by WordNet id and breed, the split in MATLAB files."""

from __future__ import annotations

from pathlib import Path

from flip.data.archives import Archive, Entry, archive_dataset, find_base, require_base
from flip.data.dataset import Dataset
from flip.data.layout import Layout
from flip.data.ledger import Ledger
from flip.data.matlab import read_mat
from flip.data.settings import DEFAULTS, ReadSettings
from flip.errors import DataError

_FOLDERS = ("stanford_dogs", "stanford-dogs", "StanfordDogs", "dogs")


def find_dogs(root: Path) -> Path | None:
    """Return the folder that holds Stanford Dogs: the folder itself, or one in it; None if neither."""
    shapes = ((photos, f"{lists}train_list.mat", f"{lists}test_list.mat") for photos, lists in _places())
    found = (find_base(root, _FOLDERS, *needed) for needed in shapes)
    return next((base for base in found if base is not None), None)


def _places() -> list[tuple[str, str]]:
    return [(photos, lists) for photos in ("Images", "images") for lists in ("", "lists/")]


def _is_there(base: Path, photos: str, lists: str) -> bool:
    return (base / photos).is_dir() and (base / f"{lists}train_list.mat").is_file()


def read_dogs(root: Path, settings: ReadSettings = DEFAULTS) -> Dataset:
    """Read Stanford Dogs with its official split: 120 breeds, 12,000 photos to train on and 8,580 to test.

    ``train_list.mat`` and ``test_list.mat``, at the top or in ``lists/``, hold the paths below ``Images/``
    (``file_list``) and their classes from 1 (``labels``).

    Raises
    ------
    DataError
        If a list cannot be read, or names a photo that is not there.
    """
    needed = "Images/, train_list.mat and test_list.mat (these also in lists/)"
    base = require_base(find_dogs(root), root, "Stanford Dogs", needed)
    photos, lists = next(place for place in _places() if _is_there(base, *place))
    breeds: dict[str, str] = {}
    entries = []
    for split in ("train", "test"):
        file = base / f"{lists}{split}_list.mat"
        paths, labels = read_mat(file, "file_list", "labels")
        if len(paths) != len(labels):
            raise DataError(f"{file} has {len(paths)} files and {len(labels)} labels; they must be as many")
        for path, label in zip(map(str, paths), map(int, labels), strict=True):
            key, folder = str(label), path.partition("/")[0]
            if breeds.setdefault(key, folder) != folder:
                raise DataError(f"{file}: class {key} is {folder!r} for {path} and {breeds[key]!r} before")
            entries.append(Entry(f"{file}: {path}", f"{photos}/{path}", key, split))
    classes = {key: breeds[key] for key in sorted(breeds, key=int)}
    return archive_dataset(Archive(root, base, LAYOUT.name), classes, entries, Ledger())


LAYOUT = Layout(
    "stanford-dogs",
    lambda root: find_dogs(root) is not None,
    read_dogs,
    "Stanford Dogs",
    index_files=(("train_list.mat", "test_list.mat"), ("lists/train_list.mat", "lists/test_list.mat")),
)
