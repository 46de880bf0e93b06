"""The Oxford-IIIT Pet dataset (Parkhi et al., CVPR 2012): ``images/`` and ``annotations/``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from flip.data.archives import Archive, Entry, archive_dataset, find_base, numbered_lines, require_base
from flip.data.dataset import Dataset
from flip.data.layout import Layout
from flip.data.ledger import Ledger
from flip.data.settings import DEFAULTS, ReadSettings
from flip.errors import DataError

_SPLITS = {"trainval.txt": "train", "test.txt": "test"}
_SPECIES = {"1": "cat", "2": "dog"}


def find_pets(root: Path) -> Path | None:
    """Return the folder that holds the Pet dataset: the folder itself, or one in it; None if neither."""
    folders = ("oxford-iiit-pet", "oxford_pets", "oxford-pets", "pets")
    return find_base(root, folders, "images", "annotations/trainval.txt", "annotations/test.txt")


def read_pets(root: Path, settings: ReadSettings = DEFAULTS) -> Dataset:
    """Read the Pet dataset with its official split: 37 breeds, 3,680 photos to train on and 3,669 to test.

    Lines of ``trainval.txt`` and ``test.txt`` are ``name class species breed``; the breed is the name without its
    number. The rank is ``species``, cat or dog.

    Raises
    ------
    DataError
        If a line is malformed, or names a photo that is not there; the message names file and line.
    """
    needed = "images/, annotations/trainval.txt and annotations/test.txt"
    base = require_base(find_pets(root), root, "the Oxford-IIIT Pet dataset", needed)
    breeds: dict[str, str] = {}
    species: dict[str, str] = {}
    entries = []
    for file, split in _SPLITS.items():
        for where, name, key, kind in _lines(base / "annotations" / file):
            breed = name.rpartition("_")[0]
            if breeds.setdefault(key, breed) != breed:
                raise DataError(f"{where}: class {key} is {breed!r} here and {breeds[key]!r} before")
            species[key] = _SPECIES[kind]
            entries.append(Entry(where, f"images/{name}.jpg", key, split))
    classes = {key: breeds[key] for key in sorted(breeds, key=int)}
    # The names of dogs' files are in lower case.
    said = {key: " ".join(word.capitalize() for word in breed.split("_")) for key, breed in classes.items()}
    archive = Archive(root, base, LAYOUT.name)
    return archive_dataset(archive, classes, entries, Ledger(), classnames=said, ranks={"species": species})


def _lines(file: Path) -> Iterator[tuple[str, str, str, str]]:
    """Yield where a line is, the photo's name, the number of its class, and that of its species."""
    for where, line in numbered_lines(file):
        words = line.split()
        if len(words) != 4 or not words[1].isdigit() or words[2] not in _SPECIES or "_" not in words[0]:
            raise DataError(f"{where}: {line!r} is not name, class, species and breed, such as Abyssinian_1 1 1 1")
        yield where, words[0], words[1], words[2]


LAYOUT = Layout(
    "oxford-pets",
    lambda root: find_pets(root) is not None,
    read_pets,
    "Oxford Pets",
    index_files=(("annotations/trainval.txt", "annotations/test.txt"),),
)
