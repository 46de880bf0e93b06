"""The extra pictures of a study: for every training photo some drawn ones, and as many random views of the photo."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from flip.data.dataset import Dataset, Record
from flip.data.images import decode_image
from flip.diffusion.augment import begin, class_folder
from flip.diffusion.generate import Planned
from flip.diffusion.painter import Picture, picture_seed
from flip.diffusion.pictures import read_about, save_picture, slug
from flip.errors import DataError
from flip.files import write_text
from flip.studies.augmentation import CONTROL, IMAGE

if TYPE_CHECKING:
    from PIL.Image import Image

    from flip.embed.extractor import FeatureExtractor

#: A random view: its share of the photo's area, and by how much its shape may differ from the photo's.
VIEW_AREA, VIEW_STRETCH = (0.5, 1.0), 4 / 3
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
    for i, record in enumerate(dataset.records):
        below = folder / "train" / class_folder(dataset.raw_names[record.label])
        for number in range(per_photo):
            prompt = prompts[i][number % len(prompts[i])]
            own = picture_seed(seed, f"{arm}\0{record.path}", number)
            source = dataset.file(record) if arm in (IMAGE, CONTROL) else None
            file = below / f"{slug(Path(record.path).stem)}-{i:05d}-{number:02d}.png"
            planned.append(Planned(Picture(prompt, own, source), file, number))
    return planned


def begin_arm(folder: Path, decides: dict[str, Any], *, overwrite: bool) -> None:
    """Make an arm's folder, or see that its pictures were made in the same way; with ``overwrite`` remove them.

    Raises
    ------
    ConfigError
        If it holds other work, or pictures that were made otherwise.
    """
    begin(folder, decides, overwrite=overwrite)
    for file in sorted((folder / "train").rglob("*.png")) if overwrite else ():
        if "arm" in read_about(file)[1]:
            file.unlink()


def write_views(planned: Sequence[Planned], done: Callable[[Planned, bool], None]) -> None:
    """Write the random views that are missing; ``done`` is called for each with whether it was made now."""
    for p in planned:
        missing = not p.file.is_file()
        if missing:
            assert p.picture.source is not None
            view = random_view(decode_image(p.picture.source), np.random.default_rng(p.picture.seed))
            save_picture(view, p.file, p.picture.prompt, {"arm": CONTROL, "seed": p.picture.seed})
        done(p, missing)


def random_view(photo: Image, generator: np.random.Generator) -> Image:
    """Return a random cut of a photo, mirrored half the time.

    Parameters
    ----------
    photo : PIL image
    generator : numpy.random.Generator
        The same state gives the same view.
    """
    from PIL import ImageOps

    share = generator.uniform(*VIEW_AREA)
    stretch = VIEW_STRETCH ** generator.uniform(-0.5, 0.5)
    width = min(photo.width, max(1, round(photo.width * (share**0.5) * stretch)))
    height = min(photo.height, max(1, round(photo.height * (share**0.5) / stretch)))
    left = int(generator.integers(photo.width - width + 1))
    top = int(generator.integers(photo.height - height + 1))
    view = photo.crop((left, top, left + width, top + height))
    return ImageOps.mirror(view) if generator.random() < 0.5 else view


def list_extras(dataset: Dataset, planned: Sequence[Planned], folder: Path) -> Dataset:
    """Write the arm's ``metadata.jsonl`` and return its pictures as a dataset, in the order planned."""
    per_photo = len(planned) // len(dataset)
    owners = [record for record in dataset.records for _ in range(per_photo)]
    paths = [p.file.relative_to(folder).as_posix() for p in planned]
    rows = (
        {"file_name": path, "text": p.picture.prompt, "photo": owner.path}
        for path, p, owner in zip(paths, planned, owners, strict=True)
    )
    write_text(folder / "metadata.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    records = tuple(Record(path, owner.label, "train") for path, owner in zip(paths, owners, strict=True))
    return Dataset(folder, "split-folders", dataset.classnames, dataset.raw_names, records)


def embed_extras(
    extractor: FeatureExtractor, extras: Dataset, per_photo: int, progress: Callable[[int], None] | None = None
) -> npt.NDArray[np.float32]:
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


def views_decide(dataset: Dataset, seed: int) -> dict[str, Any]:
    """Return what decides the views of the control."""
    return {"data": dataset.fingerprint(), "seed": seed, "views": VIEWS_ARE}
