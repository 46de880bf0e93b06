"""The drawn bird set: photos of 24 species, or of others to train on, from a seed; CUB's layout on disk."""

from __future__ import annotations

import hashlib
import io
import json
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageEnhance, ImageFilter

from flip.errors import ConfigError, reason_of
from flip.files import claim_folder, folder_aside
from flip.names import SAMPLE, SAMPLE_DATA
from flip.sample.bird import Pose, draw_bird, foot_of
from flip.sample.captions import captions
from flip.sample.scenery import PLACES, background, foreground, perch, waterline
from flip.sample.shapes import SHAPES
from flip.sample.species import SPECIES, Species, other_species
from flip.settings import Progress

SIDE = 160
_SUPERSAMPLED = 2

#: Raised whenever the drawing changes, so that no folder of older drawings passes for a new one.
EDITION = 2

_INDEX = "fieldguide.json"


@dataclass(frozen=True)
class FieldGuide:
    """A set of drawn birds.

    Attributes
    ----------
    name : str
        The word for it in ``--data``.
    species : tuple of Species
        In the order of their labels.
    photos : int
        Photos of each species.
    train : int
        The first so many are the training split, the others the test split.
    seed : int
        Of the individuals.
    """

    name: str
    species: tuple[Species, ...]
    photos: int
    train: int
    seed: int = 0

    def edition(self) -> str:
        """Return 12 hex digits that change with anything that is drawn."""
        return hashlib.sha256(repr((EDITION, self)).encode()).hexdigest()[:12]


def sample_guide(seed: int = 0) -> FieldGuide:
    """Return the 24 species of ``--data sample``: 10 photos each to train on, 30 to test."""
    return FieldGuide(SAMPLE, SPECIES, photos=40, train=10, seed=seed)


def sample_train_guide(seed: int = 0) -> FieldGuide:
    """Return the 400 other species of ``--data sample-train``, on which the sample's models learned: 13 photos each."""
    return FieldGuide(SAMPLE_DATA[1], other_species(400, seed=7), photos=13, train=12, seed=seed)


#: The field guides by their word in ``--data``.
GUIDES: dict[str, Callable[[], FieldGuide]] = dict(zip(SAMPLE_DATA, (sample_guide, sample_train_guide), strict=True))


def draw_photo(species: Species, seed: int, number: int) -> tuple[bytes, tuple[str, ...]]:
    """Draw one individual.

    Parameters
    ----------
    species : Species
    seed, number : int
        The same two draw the same bird.

    Returns
    -------
    bytes, tuple of str
        A JPEG of ``SIDE`` pixels square, and captions.
    """
    chance = random.Random(f"{seed}/{species.name}/{number}")
    image = _scene(species, chance)
    image = _lens(image.reduce(_SUPERSAMPLED), chance)
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=chance.randint(55, 95))
    return stream.getvalue(), captions(species, chance)


def write_guide(
    guide: FieldGuide, folder: Path, *, workers: int | None = None, progress: Progress | None = None
) -> None:
    """Draw a field guide into a folder in the layout of CUB-200-2011; the folder appears when all is drawn.

    Parameters
    ----------
    guide : FieldGuide
    folder : Path
        Must not exist, or be empty.
    workers : int, optional
        Threads; as many as the machine's CPU cores suggest without it.
    progress : callable, optional
        Called with the number of photos just drawn.

    Raises
    ------
    ConfigError
        If the folder holds something, or cannot be written.
    """
    if folder.exists():
        claim_folder(folder)
    try:
        with folder_aside(folder) as aside:
            _write_photos(guide, aside, workers, progress)
            _write_index(guide, aside)
    except OSError as e:
        raise ConfigError(f"{folder} cannot be written ({reason_of(e)}); pass a folder that can") from e


def is_guide(folder: Path, guide: FieldGuide) -> bool:
    """Return whether a folder holds this field guide, as it is drawn today."""
    try:
        return bool(json.loads((folder / _INDEX).read_text(encoding="utf-8"))["edition"] == guide.edition())
    except (OSError, ValueError, KeyError):
        return False


def _folder_name(label: int, species: Species) -> str:
    return f"{label + 1:03d}.{species.name.replace(' ', '_')}"


def _photo_name(label: int, species: Species, number: int) -> str:
    folder = _folder_name(label, species)
    return f"{folder}/{folder.partition('.')[2]}_{number + 1:04d}.jpg"


def _write_photos(guide: FieldGuide, aside: Path, workers: int | None, progress: Progress | None) -> None:
    for label, species in enumerate(guide.species):
        for kind in ("images", "text"):
            (aside / kind / _folder_name(label, species)).mkdir(parents=True)

    def write(job: tuple[int, int]) -> None:
        label, number = job
        photo, texts = draw_photo(guide.species[label], guide.seed, number)
        name = _photo_name(label, guide.species[label], number)
        (aside / "images" / name).write_bytes(photo)
        (aside / "text" / name).with_suffix(".txt").write_text("\n".join(texts) + "\n", encoding="utf-8")

    jobs = [(label, number) for label in range(len(guide.species)) for number in range(guide.photos)]
    with ThreadPoolExecutor(workers) as pool:
        for _ in pool.map(write, jobs):
            if progress:
                progress(1)


def _write_index(guide: FieldGuide, folder: Path) -> None:
    rows = [(label, number) for label in range(len(guide.species)) for number in range(guide.photos)]
    names = [_photo_name(label, guide.species[label], number) for label, number in rows]
    files = {
        "images.txt": names,
        "image_class_labels.txt": [str(label + 1) for label, _ in rows],
        "train_test_split.txt": ["1" if number < guide.train else "0" for _, number in rows],
        "classes.txt": [_folder_name(label, species) for label, species in enumerate(guide.species)],
    }
    for file, values in files.items():
        text = "".join(f"{i} {value}\n" for i, value in enumerate(values, 1))
        (folder / file).write_text(text, encoding="utf-8")
    marks = {species.name: {"genus": species.genus, **species.marks._asdict()} for species in guide.species}
    index = {"edition": guide.edition(), "name": guide.name, "seed": guide.seed, "species": marks}
    (folder / _INDEX).write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")


def _scene(species: Species, chance: random.Random) -> Image.Image:
    shape, side = SHAPES[species.genus], SIDE * _SUPERSAMPLED
    place = "water" if shape.place == "water" else chance.choice(PLACES)
    canvas = background(place, side, chance)
    unit = side * shape.size * chance.uniform(0.80, 1.12)
    pose = Pose(
        x=side * chance.uniform(0.43, 0.57),
        y=side * chance.uniform(0.44, 0.58) + side * 0.10 * (shape.neck > 0.3),
        unit=unit,
        tilt=chance.gauss(0, 7),
        nod=chance.gauss(0, 9),
        cock=chance.gauss(0, 7),
        sight=chance.choice((1, -1)),
    )
    foot = foot_of(pose, shape)
    if shape.legs:
        perch(canvas, place, foot, upright=shape.tail == "pointed", chance=chance)
    draw_bird(canvas, species, pose, chance)
    if not shape.legs:
        waterline(canvas, pose.y + shape.depth * 0.62 * unit, chance)
    if chance.random() < 0.35:
        foreground(canvas, place, chance)
    return canvas


def _lens(image: Image.Image, chance: random.Random) -> Image.Image:
    """Light of the day, a little out of focus."""
    image = ImageEnhance.Brightness(image).enhance(chance.uniform(0.78, 1.18))
    image = ImageEnhance.Contrast(image).enhance(chance.uniform(0.82, 1.12))
    image = ImageEnhance.Color(image).enhance(chance.uniform(0.75, 1.15))
    if chance.random() < 0.4:
        image = image.filter(ImageFilter.GaussianBlur(chance.uniform(0.3, 1.0)))
    return image
