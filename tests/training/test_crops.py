from __future__ import annotations

import hashlib

import numpy as np
import pytest
from PIL import Image

from flip.training.crops import CROP_AREA, random_crop, random_square, random_view

BICUBIC = Image.Resampling.BICUBIC


def test_a_crop_shows_at_least_its_share_and_mirrors():
    ramp = np.tile(np.arange(200, dtype=np.uint8), (100, 1))
    image = Image.fromarray(np.stack([ramp] * 3, axis=2))
    whole = random_crop(image, (40, 40), (1.0, 0.5, 0.0, 0.0, 0.9), BICUBIC)
    mirrored = random_crop(image, (40, 40), (1.0, 0.5, 0.0, 0.0, 0.1), BICUBIC)
    assert whole.shape == (40, 40, 3)
    assert whole.dtype == np.uint8
    assert np.array_equal(whole[:, ::-1], mirrored)
    # The smallest area of a square shape is 100 of 200 columns, at the left or at the right edge.
    left, right = (random_crop(image, (40, 40), (0.0, 0.5, x, 0.0, 0.9), BICUBIC) for x in (0.0, 0.9999))
    assert CROP_AREA == 0.5
    assert int(left.max()) == pytest.approx(99, abs=2)
    assert int(right.min()) == pytest.approx(100, abs=2)


def test_squares_are_not_stretched_and_mirror_only_where_allowed():
    half = Image.new("RGB", (64, 48), "black")
    half.paste((255, 255, 255), (32, 0, 64, 48))
    middle = np.asarray(random_square(half, 16, None, mirror=False))
    assert middle.shape == (16, 16, 3)
    assert middle[:, :6].max() < 20
    assert middle[:, -6:].min() > 235

    def right_is_white(mirror):
        squares = (np.asarray(random_square(half, 16, np.random.default_rng(i), mirror=mirror)) for i in range(20))
        return {bool(square[:, -3:].mean() > square[:, :3].mean()) for square in squares}

    assert right_is_white(False) == {True}
    assert right_is_white(True) == {True, False}


def test_views_are_those_of_the_measured_studies():
    # Cut without resizing: the pixels depend on NumPy's generator alone. Recorded before views had a room of their own.
    pixels = (np.arange(90 * 120 * 3) % 251).astype(np.uint8).reshape(90, 120, 3)
    views = (random_view(Image.fromarray(pixels), np.random.default_rng(seed)).tobytes() for seed in range(20))
    expected = "d44016b2246050c9ecc6a33d141b667fe417b9ee58bb089754fbfe6d0288a8dc"
    assert hashlib.sha256(b"".join(views)).hexdigest() == expected
