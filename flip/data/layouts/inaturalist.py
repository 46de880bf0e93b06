"""iNaturalist 2021: ``train/``, ``train_mini/`` and ``val/`` with folders named by number and taxonomy."""

from __future__ import annotations

import re
from pathlib import Path

from flip.data.archives import Archive, Entry, archive_dataset, require_base
from flip.data.dataset import Dataset
from flip.data.files import list_files, subfolders
from flip.data.formats import is_photo
from flip.data.layout import Layout
from flip.data.ledger import Ledger
from flip.data.settings import DEFAULTS, ReadSettings

#: The folders as they are unpacked; train_mini is a part of train.
_FOLDERS = {"train": "train", "train_mini": "train", "val": "val"}
_UNLABELED = "public_test"
_RANKS = ("kingdom", "phylum", "class", "order", "family", "genus")
_NAME = re.compile(r"\d{5}_(?:Animalia|Archaea|Bacteria|Chromista|Fungi|Plantae|Protozoa|Viruses)(?:_[^_]+){5}_.+")


def find_inaturalist(root: Path) -> Path | None:
    """Return the folder that holds iNaturalist's split folders: the folder itself, or its ``2021``; None if neither."""
    for base in (root, root / "2021", root / "inaturalist"):
        if any((base / name).is_dir() and any(map(_NAME.fullmatch, subfolders(base / name))) for name in _FOLDERS):
            return base
    return None


def read_inaturalist(root: Path, settings: ReadSettings = DEFAULTS) -> Dataset:
    """Read iNaturalist 2021 with its official splits ``train`` (or ``train_mini``) and ``val``.

    A class is called by its genus and species; the ranks above are kingdom, phylum, class, order, family and genus.
    ``public_test`` has no labels and is left out, as is ``train_mini`` where ``train`` is there.

    Raises
    ------
    DataError
        If there is no photo.
    """
    needed = "train/, train_mini/ or val/ with folders such as 00000_Animalia_..._Turdus_merula"
    base = require_base(find_inaturalist(root), root, "iNaturalist 2021", needed)
    ledger = Ledger()
    there = [name for name in _FOLDERS if (base / name).is_dir()]
    if "train" in there and "train_mini" in there:
        there.remove("train_mini")
        ledger.omit("folders of photos that train/ holds as well", "train_mini/")
    if (base / _UNLABELED).is_dir():
        ledger.omit("folders of photos without labels", f"{_UNLABELED}/")
    entries = [entry for name in there for entry in _entries(base, name, ledger)]
    classes = {key: key for key in sorted({entry.key for entry in entries})}
    ranks = {rank: {key: key.split("_")[i] for key in classes} for i, rank in enumerate(_RANKS, 1)}
    return archive_dataset(Archive(root, base, LAYOUT.name), classes, entries, ledger, ranks=ranks)


def _entries(base: Path, folder: str, ledger: Ledger) -> list[Entry]:
    entries = []
    for name in subfolders(base / folder):
        if not _NAME.fullmatch(name):
            ledger.omit("folders that are not named as a class", f"{folder}/{name}/")
            continue
        photos = [path for path in list_files(base / folder / name) if is_photo(base / folder / name, path)]
        if not photos:
            ledger.omit("folders without photos", f"{folder}/{name}/")
        entries += [Entry(str(base / folder), f"{folder}/{name}/{path}", name, _FOLDERS[folder]) for path in photos]
    return entries


LAYOUT = Layout("inaturalist", lambda root: find_inaturalist(root) is not None, read_inaturalist, "iNaturalist 2021")
