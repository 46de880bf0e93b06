"""The extra pictures of a study: for every training photo some drawn ones, and as many random views of the photo."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from flip.arrays import FloatArray
from flip.data.classnames import folder_names
from flip.data.dataset import Dataset, Record
from flip.data.images import decode_photo
from flip.diffusion.augment_folder import begin
from flip.diffusion.generate import Planned
from flip.diffusion.metadata import ImageMetadata
from flip.diffusion.painter import Picture, picture_seed
from flip.diffusion.pictures import read_metadata, save_picture, slug
from flip.errors import DataError
from flip.files import json_text, write_text
from flip.studies.augmentation import CONTROL, IMAGE
from flip.training.crops import VIEW_AREA, random_view

if TYPE_CHECKING:
    from flip.embed.extractor import FeatureExtractor

VIEWS_ARE = f"mirrored half the time, cut to {VIEW_AREA[0]:.0%} to {VIEW_AREA[1]:.0%} of the photo"


def plan_extras(
    dataset: Dataset, prompts: Sequence[tuple[str, ...]], arm: str, per_photo: int, folder: Path, *, seed: int
) -> list[Planned]:
    """Return the extras of every photo with their seeds and files, in the order of the photos.

    Each belongs to its photo alone: a drawing from noise takes one of the photo's prompts, the others begin from its
    pixels. Its seed is its own, so that a larger ``per_photo`` adds pictures and changes none.

    Parameters
    ----------
    dataset : Dataset
        Training photos only.
    prompts : sequence of n tuples of str
        Of each photo; they take turns.
    arm : str
    per_photo : int
    folder : Path
        Of the arm; its files are ``train/<class>/*.png`` below it, a dataset of its own.
    seed : int
    """
    planned = []
    folders = folder_names(dataset.raw_names)
    for i, record in enumerate(dataset.records):
        below = folder / "train" / folders[record.label]
        for number in range(per_photo):
            prompt = prompts[i][number % len(prompts[i])]
            own = picture_seed(seed, f"{arm}\0{record.path}", number)
            source = dataset.photo(record) if arm in (IMAGE, CONTROL) else None
            file = below / f"{slug(Path(record.path).stem)}-{i:05d}-{number:02d}.png"
            planned.append(Planned(Picture(prompt, own, source), file, number))
    return planned


def shuffled_prompts(dataset: Dataset, seed: int) -> tuple[tuple[str, ...], ...]:
    """Return for each photo its class's name with captions of a photo of another class, drawn by the seed.

    Raises
    ------
    DataError
        If a photo has no caption, or all are of one class.
    """
    classes = len({record.label for record in dataset.records})
    if classes < 2 or not all(record.captions for record in dataset.records):
        raise DataError("--arms shuffled needs captions of every training photo, of two classes or more; leave it out")
    labels, rng, chosen = dataset.labels, np.random.default_rng(seed), []
    for record in dataset.records:
        other = dataset.records[int(rng.choice(np.flatnonzero(labels != record.label)))]
        name = dataset.classnames[record.label]
        chosen.append(tuple(dict.fromkeys(f"a photo of a {name}. {caption}" for caption in other.captions)))
    return tuple(chosen)


def begin_arm(folder: Path, key: dict[str, object], *, overwrite: bool) -> None:
    """Make an arm's folder, or see that its pictures were made in the same way; with ``overwrite`` remove them.

    Raises
    ------
    ConfigError
        If it holds other work, or pictures that were made otherwise.
    """
    begin(folder, key, overwrite=overwrite)
    for file in sorted((folder / "train").rglob("*.png")) if overwrite else ():
        if read_metadata(file).arm is not None:
            file.unlink()


def write_views(planned: Sequence[Planned], done: Callable[[], None]) -> None:
    """Write the random views that are missing; ``done`` is called after each."""
    for p in planned:
        if not p.file.is_file():
            assert p.picture.source is not None
            view = random_view(decode_photo(p.picture.source), np.random.default_rng(p.picture.seed))
            save_picture(view, p.file, ImageMetadata(prompt=p.picture.prompt, seed=p.picture.seed, arm=CONTROL))
        done()


def list_extras(dataset: Dataset, planned: Sequence[Planned], folder: Path) -> Dataset:
    """Write the arm's ``metadata.jsonl`` and return its pictures as a dataset, in the order planned."""
    per_photo = len(planned) // len(dataset)
    owners = [record for record in dataset.records for _ in range(per_photo)]
    paths = [p.file.relative_to(folder).as_posix() for p in planned]
    rows = (
        {"file_name": path, "text": p.picture.prompt, "photo": owner.path}
        for path, p, owner in zip(paths, planned, owners, strict=True)
    )
    write_text(folder / "metadata.jsonl", "".join(json_text(row) + "\n" for row in rows))
    records = tuple(Record(path, owner.label, "train") for path, owner in zip(paths, owners, strict=True))
    return Dataset(folder, "split-folders", dataset.classnames, dataset.raw_names, records)


def embed_extras(
    extractor: FeatureExtractor, extras: Dataset, per_photo: int, progress: Callable[[int], None] | None = None
) -> FloatArray:
    """Return the features of the extras, shape (photos, per_photo, d).

    Raises
    ------
    DataError
        If one cannot be read.
    """
    features = extractor.features(extras, progress)
    if features.unreadable:
        path, error = next((p, e) for p, e in zip(features.paths, features.errors, strict=True) if e)
        raise DataError(f"{extras.root / path}: {error}; remove it, and run the same command again to make it anew")
    return features.image_features.reshape(-1, per_photo, features.image_features.shape[1])


def views_key(dataset: Dataset, seed: int) -> dict[str, object]:
    """Settings that must match for the control's views to be kept."""
    return {"data": dataset.fingerprint(), "seed": seed, "views": VIEWS_ARE}
