"""Embeddings before they are normalised."""

from __future__ import annotations

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from flip.clip.model import load_model
from flip.data.open import open_dataset
from flip.embed.extractor import FeatureExtractor
from flip.embed.raw import raw_image_features, raw_text_features
from flip.embed.settings import EmbedSettings
from flip.errors import ConfigError


@pytest.fixture
def extractor(tiny_model, tmp_path):
    return FeatureExtractor(load_model(str(tiny_model)), EmbedSettings(precision="fp32", batch_size=7), tmp_path)


def test_they_are_what_open_clip_alone_gives(squares, tiny_model, extractor):
    dataset = open_dataset(squares)
    features = extractor.features(dataset)
    raw = raw_image_features(dataset, features, extractor)
    network, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{tiny_model}")
    network.eval()
    with torch.inference_mode():
        pixels = torch.stack([preprocess(Image.open(dataset.file(r)).convert("RGB")) for r in dataset.records])
        expected = network.encode_image(pixels).numpy()
        tokens = open_clip.get_tokenizer(f"local-dir:{tiny_model}")(["a blue jay", "a fox"])
        texts = network.encode_text(tokens).numpy()
    np.testing.assert_allclose(raw, expected, atol=1e-4)
    np.testing.assert_allclose(raw_text_features(["a blue jay", "a fox"], extractor), texts, atol=1e-4)
    lengths = np.linalg.norm(raw, axis=1, keepdims=True)
    assert np.ptp(lengths) > 0.01, "their lengths differ"
    np.testing.assert_allclose(raw / lengths, features.image_features, atol=2e-3)


def test_they_are_encoded_once(squares, extractor, tiny_model):
    dataset = open_dataset(squares)
    features = extractor.features(dataset)
    first = raw_image_features(dataset, features, extractor)
    again = FeatureExtractor(load_model(str(tiny_model)), extractor.settings, extractor.cache)
    seen = []
    np.testing.assert_array_equal(raw_image_features(dataset, features, again, seen.append), first)
    assert seen == []


def test_unreadable_photos_have_zero_rows(squares, tmp_path, extractor):
    from tests.conftest import write_squares

    root = write_squares(tmp_path / "birds")
    (root / "red_fox" / "0.png").write_bytes(b"no photo")
    dataset = open_dataset(root)
    features = extractor.features(dataset)
    raw = raw_image_features(dataset, features, extractor)
    (bad,) = np.flatnonzero(~raw.any(axis=1))
    assert features.paths[bad] == "red_fox/0.png"


def test_a_table_of_embeddings_has_none(squares, tmp_path, extractor):
    from flip.embed.table import write_table

    dataset = open_dataset(squares)
    features = extractor.features(dataset)
    write_table(tmp_path / "table", features, dataset, "tiny")
    with pytest.raises(ConfigError, match="holds unit embeddings"):
        raw_image_features(open_dataset(tmp_path / "table"), features, extractor)
