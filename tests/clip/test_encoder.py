import numpy as np
import pytest
import torch
from PIL import Image

from flip.clip.encoder import PlaceableEncoder
from flip.clip.model import load_model
from flip.device import resolve_device


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (50, 40, 3), dtype=np.uint8)) for _ in range(3)]


def test_a_model_encodes_images_and_texts_by_itself(tiny_model, images):
    model = load_model(str(tiny_model))
    features = model.encode_images([model.prepare(image) for image in images])
    with torch.inference_mode():
        pixels = torch.stack([model.preprocess(image) for image in images])
        theirs = model.network.encode_image(pixels, normalize=True).numpy()
    assert features == pytest.approx(theirs, abs=1e-5)
    finished = []
    texts = model.encode_texts([f"bird {i}" for i in range(70)], finished.append)
    assert texts.shape == (70, 32)
    assert finished == [64, 6]
    assert model.encode_texts([]).shape == (0, 32)


def test_a_placed_model_shares_the_network_and_keeps_its_own_format(tiny_model, images):
    model = load_model(str(tiny_model))
    cpu = resolve_device("cpu")
    fp32, bf16 = model.placed(cpu), model.placed(cpu, "bf16")
    assert isinstance(fp32, PlaceableEncoder)
    prepared = [fp32.prepare(image) for image in images]
    exact, rounded = fp32.encode_images(prepared), bf16.encode_images(prepared)
    assert fp32.network is bf16.network is model.network
    assert next(model.network.parameters()).dtype == torch.float32
    assert (exact != rounded).any()
    assert (exact * rounded).sum(axis=1).min() > 0.99


def test_the_logit_scale_follows_the_network_that_is_trained(tiny_model):
    model = load_model(str(tiny_model))
    with torch.no_grad():
        model.network.logit_scale.fill_(1.0)
    assert model.logit_scale == pytest.approx(np.e)
