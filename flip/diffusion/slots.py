"""The images that a generated training set shall hold: for every class some slots, each with its prompts and photos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from flip.data.classnames import folder_names
from flip.data.dataset import Dataset, Photo
from flip.diffusion.painter import Picture, picture_seed
from flip.diffusion.pictures import slug
from flip.errors import DataError


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
    photos : tuple of Photo
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
    photos: tuple[Photo, ...]
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
    by_class: list[tuple[tuple[str, ...], tuple[Photo, ...]]] = []
    for label, texts in enumerate(prompts):
        generator = np.random.default_rng([seed, label])
        photos = [dataset.photo(r) for r in dataset.records if r.label == label] if from_photos else []
        if from_photos and not photos:
            raise DataError(
                f"class {dataset.classnames[label]!r} has no training photo to begin from; leave out --strength"
            )
        order = generator.permutation(len(texts)), generator.permutation(len(photos))
        by_class.append((tuple(texts[i] for i in order[0]), tuple(photos[i] for i in order[1])))
    folders = folder_names(dataset.raw_names)
    return [
        Slot(label, dataset.classnames[label], dataset.raw_names[label], folders[label], number, *by_class[label], seed)
        for number in range(per_class)
        for label in range(len(by_class))
    ]
