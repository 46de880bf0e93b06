"""``--decode``: large JPEG photos at a smaller scale where half precision is used, and nowhere else."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from flip.clip.model import load_model
from flip.data.open import open_dataset
from flip.embed.decoding import EXACT, FAST, read_pixels
from flip.embed.extractor import FeatureExtractor
from flip.embed.settings import EmbedSettings
from tests.data.test_scaled import encoded, photo
from tests.embed.test_encoders import ColourEncoder

CPU = EmbedSettings(device="cpu")


@pytest.fixture(scope="module")
def model(tiny_model):
    return load_model(str(tiny_model))


@pytest.mark.parametrize(
    ("size", "box", "decoding"),
    [
        ((400, 300), None, FAST),
        ((200, 128), None, FAST),
        ((200, 127), None, EXACT),
        ((400, 300), (10, 10, 200, 130), FAST),
        ((400, 300), (10, 10, 200, 100), EXACT),
    ],
)
def test_only_large_regions_are_decoded_fast(model, size, box, decoding):
    data = encoded(photo(size))
    exact, fast = (read_pixels(data, box, model, fast=f) for f in (False, True))
    assert exact.decoding == EXACT
    assert fast.decoding == decoding
    assert fast.prepared.shape == exact.prepared.shape
    assert fast.prepared.dtype == np.uint8
    difference = np.abs(fast.prepared.astype(float) - exact.prepared)
    assert difference.mean() < 2.5
    assert (difference.max() == 0) == (decoding == EXACT)


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_other_formats_are_exact(model, format):
    data = encoded(photo((400, 300)), format)
    fast = read_pixels(data, None, model, fast=True)
    assert fast.decoding == EXACT
    assert (fast.prepared == read_pixels(data, None, model, fast=False).prepared).all()


def test_an_encoder_that_does_not_say_how_it_resizes_gets_every_pixel():
    data, encoder = encoded(photo((400, 300))), ColourEncoder()
    fast = read_pixels(data, None, encoder, fast=True)
    assert fast.decoding == EXACT
    assert (fast.prepared == read_pixels(data, None, encoder, fast=False).prepared).all()


@pytest.mark.parametrize(
    ("decode", "precision", "is_fast"),
    [
        ("auto", "fp32", False),
        ("auto", "bf16", True),
        ("auto", "fp16", True),
        ("exact", "bf16", False),
        ("fast", "fp32", True),
        ("exact", "fp32", False),
    ],
)
def test_auto_is_fast_with_half_precision(model, tmp_path, decode, precision, is_fast):
    settings = replace(CPU, precision=precision, decode=decode)
    extractor = FeatureExtractor(model, settings, tmp_path)
    assert extractor.is_fast == is_fast


def test_an_exact_run_takes_no_scaled_photo_and_a_fast_one_takes_both(model, tmp_path):
    for i, size in enumerate([(600, 450), (64, 48)]):
        for split in ("train", "test"):
            (tmp_path / "data" / split / f"c{i}").mkdir(parents=True)
            file = tmp_path / "data" / split / f"c{i}" / "p.jpg"
            file.write_bytes(encoded(photo(size).rotate(90 * (split == "test"))))
    dataset = open_dataset(tmp_path / "data")
    large = np.array(["c0" in r.path for r in dataset.records])

    def run(decode):
        extractor = FeatureExtractor(model, replace(CPU, precision="fp32", decode=decode), tmp_path / "cache")
        return extractor.features(dataset).image_features, extractor.photos_read

    fast, read = run("fast")
    assert read == 4
    assert run("fast")[1] == 0
    exact, read = run("exact")
    assert read == 2, "a small photo is decoded alike both ways"
    assert (fast * exact).sum(axis=1).min() > 0.99
    assert (fast[large] != exact[large]).any(axis=1).all()
    assert (fast[~large] == exact[~large]).all()
    assert run("exact")[1] == 0


def test_a_fast_run_takes_photos_that_were_decoded_exactly(model, tmp_path):
    (tmp_path / "p.jpg").write_bytes(encoded(photo((600, 450))))
    rows = []
    for decode in ("exact", "fast"):
        extractor = FeatureExtractor(model, replace(CPU, precision="fp32", decode=decode), tmp_path / "cache")
        rows += [batch.embeddings[0] for batch in extractor.stream([str(tmp_path / "p.jpg")])]
    assert extractor.photos_read == 0
    assert (rows[0] == rows[1]).all()


def test_real_photos_keep_the_promise_of_half_precision(shared, tmp_path):
    model = load_model(str(shared / "models" / "flip-lit-b0"), cache=tmp_path)
    files = [r.path for r in open_dataset(shared / "data" / "birds").records[::200]]
    cosines = []
    for i, file in enumerate(files):
        with Image.open(shared / "data" / "birds" / file) as image:
            large = image.convert("RGB").resize((1800, 1350), Image.Resampling.LANCZOS)
        data = encoded(large, quality=92)
        pixels = [read_pixels(data, None, model, fast=fast) for fast in (False, True)]
        assert pixels[1].decoding == FAST, i
        a, b = model.encode_images([p.prepared for p in pixels])
        cosines.append(float(a @ b))
    assert np.mean(cosines) >= 0.999
    assert min(cosines) >= 0.98
