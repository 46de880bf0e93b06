"""The images that a generated training set shall hold: for every class some slots, each with its prompts and photos."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from unicodedata import normalize

import numpy as np

from flip.data.dataset import Dataset
from flip.diffusion.painter import Picture, picture_seed
from flip.diffusion.pictures import slug
from flip.errors import DataError

#: File systems hold names of at most 255 bytes.
_MOST_BYTES = 200


@dataclass(frozen=True)
class Slot:
    """A place for one image of a class: number ``number`` among those wanted.

    Attributes
    ----------
    label : int
    classname, raw_name : str
    folder : str
        Of the class, below ``train/``.
    number : int
    prompts : tuple of str
    photos : tuple of Path
        Training photos to begin from; empty to begin from noise.
    seed : int
        Of the run.
    """

    label: int
    classname: str
    raw_name: str
    folder: str
    number: int
    prompts: tuple[str, ...]
    photos: tuple[Path, ...]
    seed: int

    @property
    def file(self) -> str:
        """Path of the image below the output folder."""
        return f"train/{self.folder}/{slug(self.classname)}-{self.number:04d}.png"

    def picture(self, attempt: int) -> Picture:
        """Return the image to draw at an attempt: each takes the next prompt, the next photo and another seed."""
        turn = self.number + attempt
        prompt = self.prompts[turn % len(self.prompts)]
        source = self.photos[turn % len(self.photos)] if self.photos else None
        return Picture(prompt, picture_seed(self.seed, f"{self.raw_name}\0{self.number}\0{prompt}", attempt), source)


def plan_slots(
    dataset: Dataset, prompts: Sequence[tuple[str, ...]], per_class: int, *, seed: int, from_photos: bool
) -> list[Slot]:
    """Plan the slots of every class, one class's turn after another's, so that an interrupted run is balanced.

    Parameters
    ----------
    dataset : Dataset
        Training photos only.
    prompts : sequence of c tuples of str
        Of each class.
    per_class : int
    seed : int
        Decides the order in which a class's prompts and photos take their turns.
    from_photos : bool
        Begin each image from a training photo of the class.

    Raises
    ------
    DataError
        If a class has no photo to begin from.
    """
    by_class: list[tuple[tuple[str, ...], tuple[Path, ...]]] = []
    for label, texts in enumerate(prompts):
        generator = np.random.default_rng([seed, label])
        photos = [dataset.file(r) for r in dataset.records if r.label == label] if from_photos else []
        if from_photos and not photos:
            raise DataError(
                f"class {dataset.classnames[label]!r} has no training photo to begin from; leave out --strength"
            )
        order = generator.permutation(len(texts)), generator.permutation(len(photos))
        by_class.append((tuple(texts[i] for i in order[0]), tuple(photos[i] for i in order[1])))
    folders = class_folders(dataset.raw_names)
    return [
        Slot(label, dataset.classnames[label], dataset.raw_names[label], folders[label], number, *by_class[label], seed)
        for number in range(per_class)
        for label in range(len(by_class))
    ]


def class_folders(raw_names: Sequence[str]) -> tuple[str, ...]:
    """Return a folder name for each class, no two of them the same on any file system.

    A name that file systems can hold is its own folder. Names that differ in more than what they can hold (``Ram C/V``
    and ``Ram C:V``, or only in case) get a hash of the name behind it.
    """
    holders: dict[str, list[str]] = defaultdict(list)
    for name in sorted(set(raw_names), key=lambda name: (class_folder(name) != name, name)):
        holders[normalize("NFC", class_folder(name)).casefold()].append(name)
    folders = {}
    for names in holders.values():
        for i, name in enumerate(names):
            alone = len(names) == 1 or (i == 0 and class_folder(name) == name)
            folders[name] = class_folder(name) if alone else f"{class_folder(name)}-{_hash(name)}"
    return tuple(folders[name] for name in raw_names)


def class_folder(raw_name: str) -> str:
    """Return a class's raw name as far as file systems can hold it; two classes may come to the same name."""
    folder = re.sub(r'[\x00-\x1f\\/:*?"<>|]', "_", raw_name).strip(". ") or "_"
    encoded = folder.encode("utf-8", "surrogatepass")
    if len(encoded) <= _MOST_BYTES:
        return folder
    return f"{encoded[:_MOST_BYTES].decode('utf-8', 'ignore')}-{_hash(raw_name)}"


def _hash(name: str) -> str:
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
