"""JPEG files decoded at a smaller scale show the same region as the whole photo does."""

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw

from flip.data.images import decode_image
from flip.data.scaled import decode_scaled
from flip.errors import DataError
from tests.data.test_images import STORED

SIZES = [(400, 300), (403, 301), (397, 613)]


def photo(size):
    """A smooth photo with one bright square away from the middle, so that turning it shows."""
    x, y = np.meshgrid(np.linspace(0, 200, size[0]), np.linspace(0, 160, size[1]))
    image = Image.fromarray(np.stack([x, y, 0 * x + 60], axis=-1).astype(np.uint8))
    ImageDraw.Draw(image).rectangle((size[0] // 8, size[1] // 8, size[0] // 4, size[1] // 3), (250, 240, 230))
    return image


def encoded(image, format="JPEG", **options):
    file = io.BytesIO()
    image.save(file, format, **({"quality": 95} if format == "JPEG" else {}) | options)
    return file.getvalue()


def least(w, h):
    return lambda *_: (w, h)


def seen(data, box, scale, size=(24, 18)):
    """The region of a photo, resized, as decoded at a scale."""
    found = decode_scaled(data, box, lambda width, height: (width // scale, height // scale))
    assert found.scale == scale
    return np.asarray(found.image.resize(size, Image.Resampling.BICUBIC, box=found.region), float)


@pytest.mark.parametrize(
    ("wanted", "scale"),
    [((50, 37), 8), ((51, 37), 4), ((50, 38), 4), ((100, 75), 4), ((200, 150), 2), ((201, 1), 1), ((900, 900), 1)],
)
def test_the_smallest_scale_that_leaves_enough_is_taken(wanted, scale):
    found = decode_scaled(encoded(photo((400, 300))), None, least(*wanted))
    assert found.scale == scale
    assert found.image.size == (-(-400 // scale), -(-300 // scale))
    assert found.size == (400, 300)
    assert found.region == (0, 0, 400 / scale, 300 / scale)


def test_what_is_cut_out_decides():
    data = encoded(photo((400, 300)))
    assert decode_scaled(data, (10, 20, 100, 80), least(50, 40)).scale == 2
    assert decode_scaled(data, (10, 20, 99, 80), least(50, 40)).scale == 1
    found = decode_scaled(data, (10.5, 21, 101, 83), least(20, 20))
    assert found.region == (2.5, 5.25, 28, 26)
    assert found.size == (102, 83)


@pytest.mark.parametrize("scale", [2, 4, 8])
@pytest.mark.parametrize("orientation", [1, *STORED])
@pytest.mark.parametrize("size", SIZES)
def test_a_turned_photo_shows_the_same_region(size, orientation, scale):
    upright = photo(size)
    stored = upright.transpose(STORED[orientation]) if orientation in STORED else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(stored, exif=exif)
    for box in (None, (31, 17, 201, 170)):
        exact = seen(data, box, 1)
        assert np.abs(seen(data, box, scale) - exact).mean() < 2.5
        assert exact.std() > 20


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGB"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}], ids=str)
def test_every_kind_of_jpeg_is_scaled(mode, options):
    data = encoded(photo((400, 300)).convert(mode), **options)
    assert decode_scaled(data, None, least(40, 30)).image.mode == "RGB"
    assert np.abs(seen(data, None, 4) - seen(data, None, 1)).mean() < 2.5


def test_the_first_of_several_images_is_scaled():
    data = encoded(photo((400, 300)), "MPO", save_all=True, append_images=[Image.new("RGB", (400, 300))])
    assert np.abs(seen(data, None, 4) - seen(data, None, 1)).mean() < 2.5


@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF", "GIF"])
def test_other_formats_are_decoded_as_they_are(format):
    data = encoded(photo((400, 300)), format)
    found = decode_scaled(data, (3, 4, 50, 60), least(1, 1))
    assert (found.scale, found.region, found.size) == (1, (3, 4, 53, 64), (50, 60))
    assert found.image.tobytes() == decode_image(data).tobytes()


@pytest.mark.parametrize("box", [None, (20, 20, 90, 90)])
@pytest.mark.parametrize("broken", ["cut", "no header", "empty", "rubbish"])
def test_a_broken_photo_has_the_same_error(broken, box):
    whole = encoded(photo((400, 300)))
    data = {"cut": whole[: len(whole) // 2], "no header": whole[100:], "empty": b"", "rubbish": b"hello"}[broken]
    with pytest.raises(DataError) as exact:
        decode_image(data, box)
    with pytest.raises(DataError) as scaled:
        decode_scaled(data, box, least(20, 20))
    assert str(scaled.value) == str(exact.value)


@pytest.mark.parametrize("box", [(500, 0, 10, 10), (0, 0, 0, 10), (float("nan"), 0, 5, 5)])
def test_an_empty_box_has_the_same_error(box):
    data = encoded(photo((400, 300)))
    with pytest.raises(DataError, match="empty box") as exact:
        decode_image(data, box)
    with pytest.raises(DataError, match="empty box") as scaled:
        decode_scaled(data, box, least(2, 2))
    assert str(scaled.value) == str(exact.value)


def test_a_broken_exif_block_does_not_cost_the_photo():
    data = encoded(photo((400, 300)), exif=b"Exif\x00\x00MM\x00\x2a\xff\xff\xff\xffrubbish")
    assert decode_scaled(data, None, least(40, 30)).scale == 8


def test_too_many_pixels_are_refused_before_they_are_scaled(monkeypatch):
    monkeypatch.setattr("flip.data.limits.MAX_PIXELS", 1000)
    with pytest.raises(DataError, match="too large"):
        decode_scaled(encoded(photo((400, 300))), None, least(2, 2))
