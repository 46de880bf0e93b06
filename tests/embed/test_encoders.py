"""Any object with an encoder's attributes and methods can be embedded with."""

import logging
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from PIL import Image, ImageOps

from flip.clip.encoder import Encoder, OpenClipEncoder
from flip.clip.model import load_model
from flip.data.open import open_dataset
from flip.embed.captions import with_caption_features
from flip.embed.extractor import FeatureExtractor, extract_features
from flip.embed.settings import EmbedSettings
from flip.errors import ConfigError, DataError, FeatureMismatchError


def unit(rows):
    rows = np.asarray(rows, np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@dataclass
class ColourEncoder:
    """A user's own encoder: the mean colour of a photo's left half, and the letters of a text."""

    name: str = "colours"
    fingerprint: str = "c0104255"
    dim: int = 3
    logit_scale: float = 10.0
    calls: list = field(default_factory=list)

    def prepare(self, image):
        pixels = np.asarray(image, np.float32)
        return pixels[:, : pixels.shape[1] // 2].mean(axis=(0, 1)) + 1

    def encode_images(self, prepared):
        self.calls.append(len(prepared))
        return unit(np.stack(prepared))

    def encode_texts(self, texts, progress=None):
        self.calls.append(list(texts))
        return unit([[1 + text.count(c) for c in "rgb"] for text in texts])


def test_a_user_s_encoder_is_embedded_with_and_cached(squares, tmp_path):
    encoder: Encoder = ColourEncoder()
    dataset = open_dataset(squares)
    features = extract_features(dataset, encoder, cache=tmp_path)
    assert features.fingerprint == "c0104255"
    expected = unit([encoder.prepare(Image.open(dataset.file(r)).convert("RGB")) for r in dataset.records])
    assert features.image_features == pytest.approx(expected, abs=1e-3)
    calls = len(encoder.calls)
    again = extract_features(dataset, encoder, cache=tmp_path, settings=EmbedSettings(batch_size=3))
    assert (again.image_features == features.image_features).all()
    assert len(encoder.calls) == calls, "all photos were cached"
    texts = FeatureExtractor(encoder, cache=tmp_path).texts(["red", "bg", "red"])
    assert texts == pytest.approx(unit([[2, 1, 1], [1, 2, 2], [2, 1, 1]]))
    assert encoder.calls[-1] == ["red", "bg"], "each text once"


def test_mirror_images_of_a_user_s_encoder_are_averaged(tmp_path):
    photo = Image.new("RGB", (40, 20), (250, 0, 0))
    photo.paste((0, 0, 250), (20, 0, 40, 20))
    photo.save(tmp_path / "p.png")
    encoder = ColourEncoder()
    extractor = FeatureExtractor(encoder, EmbedSettings(tta="flip"), tmp_path / "c")
    got = next(iter(extractor.stream([str(tmp_path / "p.png")]))).embeddings[0]
    a, b = encoder.encode_images([encoder.prepare(photo), encoder.prepare(ImageOps.mirror(photo))])
    assert got == pytest.approx((a + b) / np.linalg.norm(a + b), abs=1e-3)
    assert extractor.fingerprint != replace(extractor, settings=EmbedSettings()).fingerprint


def test_views_of_one_model_have_caches_of_their_own(tiny_model, tmp_path):
    model = load_model(str(tiny_model))
    settings = [EmbedSettings(precision=p, crop=c, tta=t) for p, c, t in ALL_VIEWS]
    prints = {FeatureExtractor(model, s, tmp_path).fingerprint for s in settings}
    assert len(prints) == len(ALL_VIEWS)


ALL_VIEWS = [(p, c, t) for p in ("fp32", "bf16") for c in ("none", "boxes") for t in ("none", "flip")]


def test_features_of_another_model_are_not_read_from_a_table(squares, tmp_path):
    from flip.embed.table import write_table

    dataset = open_dataset(squares)
    write_table(tmp_path / "t", extract_features(dataset, ColourEncoder(), cache=tmp_path), dataset, "colours")
    with pytest.raises(FeatureMismatchError, match="was made by colours"):
        extract_features(open_dataset(tmp_path / "t"), ColourEncoder(fingerprint="0"), cache=tmp_path)


def test_caption_features_are_the_unit_mean_of_a_photo_s_captions(squares, tmp_path):
    extractor = FeatureExtractor(ColourEncoder(), cache=tmp_path)
    features = extractor.features(open_dataset(squares).take(range(3)))
    captions = (("red", "blue"), ("green",), ("r", "g", "b"))
    finished = []
    captioned = with_caption_features(replace(features, captions=captions), extractor, finished.append)
    rows = [extractor.texts(c).mean(axis=0) for c in captions]
    assert captioned.caption_features == pytest.approx(unit(rows), abs=1e-6)
    assert captioned.image_features is features.image_features
    with pytest.raises(DataError, match=r"--text captions: 1 of 3 photos have no caption, the first .*0\.png"):
        with_caption_features(replace(features, captions=((), ("a",), ("b",))), extractor)


def test_the_network_is_loaded_when_the_first_photo_is_not_cached(tiny_model, squares, tmp_path):
    dataset, settings = open_dataset(squares), EmbedSettings(device="cpu")
    extract_features(dataset, load_model(str(tiny_model), cache=tmp_path), settings=settings, cache=tmp_path)
    model = load_model(str(tiny_model), cache=tmp_path)
    extractor = FeatureExtractor(model, settings, tmp_path)
    assert extractor.features(dataset.take(range(5))).unreadable == 0
    assert not model._model.is_loaded
    assert "placement" not in extractor.__dict__
    Image.new("RGB", (40, 40)).save(tmp_path / "new.png")
    next(iter(extractor.stream([str(tmp_path / "new.png")])))
    assert model._model.is_loaded


def test_a_remembered_precision_that_no_longer_holds_is_kept_for_the_run_and_said(
    tiny_model, squares, tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr("flip.device.bf16_in_hardware", lambda device: True)
    monkeypatch.setattr("flip.clip.precision.relative_time", lambda model, placement: 0.5)
    model, settings = load_model(str(tiny_model)), EmbedSettings(device="cpu")
    assert FeatureExtractor(model, settings, tmp_path).precision == "bf16"
    monkeypatch.setattr("flip.device.bf16_in_hardware", lambda device: False)
    extractor = FeatureExtractor(model, settings, tmp_path)
    with caplog.at_level(logging.WARNING, "flip"):
        assert isinstance(extractor.encoder, OpenClipEncoder)
    assert "auto was bf16 on this machine and is now fp32; this run keeps bf16" in caplog.text
    assert extractor.encoder.precision == extractor.precision == "bf16"
    assert FeatureExtractor(model, settings, tmp_path).precision == "fp32"


def test_fp16_on_a_cpu_is_refused_when_a_photo_has_to_be_embedded(tiny_model, squares, tmp_path):
    settings = EmbedSettings(device="cpu", precision="fp16")
    with pytest.raises(ConfigError, match="fp16 needs a GPU"):
        extract_features(open_dataset(squares), load_model(str(tiny_model)), settings=settings, cache=tmp_path)


def test_settings_that_cannot_be_are_refused():
    for changed, message in [
        ({"batch_size": 0}, "--batch-size 0 is too small; pass 1 or more"),
        ({"workers": 0}, "--workers 0 is too small"),
        ({"crop": "box"}, "--crop 'box' is unknown; did you mean boxes.*; pass none, boxes"),
        ({"precision": "float"}, "--precision 'float' is unknown"),
    ]:
        with pytest.raises(ConfigError, match=message):
            EmbedSettings(**changed)
