"""Frames: a banner below a photo is cut wherever photos are decoded."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flip.data.dataset import Dataset, Record
from flip.data.looks import look_at
from flip.data.manifest_file import write_manifest
from flip.data.open import open_dataset
from flip.diffusion.copies import PhotoHashes
from flip.diffusion.painter import fit_photo
from flip.report.sheet import GAP, LINE, LINES, SIDE, contact_sheet_of
from flip.report.thumbnails import thumbnails
from flip.results import Prediction
from flip.studies.augmentation import CONTROL
from flip.studies.extras import plan_extras, write_views
from flip.training.diffusion.examples import Views, read_examples
from tests.data.photographs import photograph

WITHOUT_BANNER = (0.0, 0.0, math.inf, -20.0)


@pytest.fixture
def planes(tmp_path: Path) -> Dataset:
    """Four green photos whose last 20 rows are red, of two classes."""
    records = []
    for n in range(4):
        pixels = np.full((120, 160, 3), (20, 160, 20), np.uint8)
        pixels[100:] = (255, 0, 0)
        Image.fromarray(pixels).save(tmp_path / f"{n}.png")
        records.append(Record(f"{n}.png", n % 2, "train", frame=WITHOUT_BANNER))
    return Dataset(tmp_path, "fgvc-aircraft", ("A310", "A320"), ("A310", "A320"), tuple(records))


def training_views(planes: Dataset, tmp_path: Path) -> Image.Image:
    views = Views(read_examples(planes), 32, 4, 0).read(0)
    assert views is not None
    return Image.fromarray(((np.concatenate(list(views), axis=1) + 1) * 127.5).astype(np.uint8).transpose(1, 2, 0))


def image_to_begin_from(planes: Dataset, tmp_path: Path) -> Image.Image:
    return fit_photo(planes.photo(planes.records[0]), (64, 64))


def random_views(planes: Dataset, tmp_path: Path) -> Image.Image:
    planned = plan_extras(planes, [("a plane",)] * 4, CONTROL, 3, tmp_path / "arm", seed=0)
    write_views(planned, lambda: None)
    images = [np.asarray(Image.open(plan.file).convert("RGB").resize((32, 32))) for plan in planned]
    return Image.fromarray(np.concatenate(images))


def thumbnails_of_a_page(planes: Dataset, tmp_path: Path) -> Image.Image:
    (made,) = thumbnails({0: planes.photo(planes.records[0])}).values()
    return Image.open(io.BytesIO(base64.b64decode(made))).convert("RGB")


def contact_sheet(planes: Dataset, tmp_path: Path) -> Image.Image:
    rows = [Prediction("0.png", "A310", truth="A310")]
    contact_sheet_of(rows, planes.root, tmp_path / "sheet.png", frames=planes.frames)
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (2 * GAP + SIDE, 2 * GAP + SIDE + LINE * LINES)
        return sheet.convert("RGB").crop((GAP, GAP, GAP + SIDE, GAP + SIDE))


@pytest.mark.parametrize(
    "shown", [training_views, image_to_begin_from, random_views, thumbnails_of_a_page, contact_sheet]
)
def test_the_banner_is_nowhere(planes: Dataset, tmp_path: Path, shown: Callable[[Dataset, Path], Image.Image]) -> None:
    pixels = np.asarray(shown(planes, tmp_path)).astype(int)
    assert (pixels[..., 1] > pixels[..., 0] + 60).any()  # the photo's green is there
    assert not (pixels[..., 0] > pixels[..., 1] + 60).any()


def test_photos_are_measured_without_it(planes: Dataset) -> None:
    assert look_at([planes.photo(planes.records[0])])[0].spread == 0


def test_copies_are_told_without_it(tmp_path: Path) -> None:
    image = photograph(3, 160, 160)
    framed = Image.new("RGB", (160, 200), "white")
    framed.paste(image)
    framed.save(tmp_path / "0.png")
    box = (0.0, 0.0, math.inf, -40.0)
    dataset = Dataset(tmp_path, "manifest", ("a",), ("a",), (Record("0.png", 0, "train", frame=box),))
    assert PhotoHashes([dataset.photo(dataset.records[0])], (64, 64)).near(image.resize((64, 64))) is not None


def test_a_manifest_keeps_it(planes: Dataset, tmp_path: Path) -> None:
    for name in ("planes.jsonl", "planes.csv"):
        write_manifest(planes, tmp_path / name)
        again = open_dataset(tmp_path / name)
        assert [record.frame for record in again.records] == [WITHOUT_BANNER] * 4
