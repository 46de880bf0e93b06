from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from open_clip.loss import ClipLoss
from torch import nn
from torch.nn.functional import normalize

from flip.clip.model import load_model
from flip.clip.prompts import class_prompts
from flip.data.open import open_dataset
from flip.device import training_accelerator
from flip.errors import DataError
from flip.training.clip.examples import make_examples
from flip.training.clip.loss import contrastive_loss, drift
from flip.training.clip.photos import TrainingPhotos
from flip.training.clip.step import Batch, PairEncoder, backward_step
from flip.training.clip.trainable import choose_parameters
from tests.conftest import write_squares


def unit(rows, seed):
    return normalize(torch.randn(rows, 8, generator=torch.Generator().manual_seed(seed)), dim=-1)


def test_the_loss_of_three_pairs_by_hand():
    image = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    text = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    # Logits with scale 1, rows are photos: (1 0 0), (1 0 0), (0 1 1). Photos 0 and 1 are of one class.
    first = -0.5 * (math.log(math.e / (math.e + 2)) + math.log(1 / (math.e + 2)))
    third = -math.log(math.e / (1 + 2 * math.e))
    # Columns: (1 1 0), (0 0 1), (0 0 1).
    to_image = (-math.log(math.e / (2 * math.e + 1)) + math.log(2 + math.e) - math.log(math.e / (2 + math.e))) / 3
    expected = ((2 * first + third) / 3 + to_image) / 2
    loss = contrastive_loss(image, text, torch.tensor([0, 0, 1]), torch.tensor(1.0))
    assert float(loss) == pytest.approx(expected, rel=1e-6)


def test_with_different_labels_it_is_the_loss_of_clip():
    image, text, scale = unit(6, 0), unit(6, 1), torch.tensor(14.0)
    ours = contrastive_loss(image, text, torch.arange(6), scale)
    assert float(ours) == pytest.approx(float(ClipLoss()(image, text, scale)), rel=1e-5)


def test_the_order_of_the_pairs_does_not_matter():
    image, text, labels, order = unit(6, 0), unit(6, 1), torch.tensor([0, 1, 0, 2, 1, 0]), torch.randperm(6)
    losses = [contrastive_loss(image[o], text[o], labels[o], torch.tensor(5.0)) for o in (torch.arange(6), order)]
    assert float(losses[0]) == pytest.approx(float(losses[1]), rel=1e-5)


def test_drift_is_the_mean_squared_distance():
    now, known = torch.tensor([[1.0, 0.0], [0.6, 0.8]]), torch.tensor([[0.0, 1.0], [0.6, 0.8]])
    assert float(drift(now, known)) == pytest.approx(1.0)
    assert float(drift(known, known)) == 0


def gradients(folder, parts, *, checkpointing=False, keep=0.0):
    model = load_model(str(folder))
    network = model.network.requires_grad_(True).train()
    network.set_grad_checkpointing(checkpointing)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(8, 3, 32, 32, generator=generator)
    tokens = model.tokenize(["a fox", "a jay", "a cat", "a fox", "a frog", "a jay", "a fox", "one more"])
    labels = torch.tensor([0, 1, 2, 0, 3, 1, 0, 3])
    accelerator = training_accelerator("cpu")
    batches = [Batch(p, t) for p, t in zip(pixels.chunk(parts), tokens.chunk(parts), strict=True)]
    encoder = PairEncoder(network, keep=keep > 0)
    known = network.encode_image(pixels, normalize=True).detach()
    with torch.no_grad():
        network.visual.proj.mul_(torch.linspace(0.5, 1.5, model.dim))
    loss = backward_step(accelerator.prepare_model(encoder), batches, labels, accelerator, seed=0, keep=keep)
    direct = contrastive_loss(
        network.encode_image(pixels, normalize=True),
        network.encode_text(tokens, normalize=True),
        labels,
        network.logit_scale.exp(),
    )
    if keep:
        direct = direct + keep * drift(network.encode_image(pixels, normalize=True), known)
    return loss, float(direct.detach()), {name: p.grad for name, p in network.named_parameters()}


@pytest.mark.parametrize("keep", [0.0, 2.0])
@pytest.mark.parametrize("parts", [1, 2, 4])
def test_gathered_batches_give_the_gradient_of_the_whole_batch(tiny_model, parts, keep):
    loss, direct, found = gradients(tiny_model, parts, keep=keep)
    _, _, expected = gradients(tiny_model, 1, keep=keep)
    assert loss == pytest.approx(direct, rel=1e-5)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-5 * float(gradient.abs().max()), msg=name)


class Pair(nn.Module):
    """A dual encoder whose image tower has a trunk and a head, as timm's have in open_clip."""

    def __init__(self):
        super().__init__()
        self.visual = nn.Sequential()
        self.visual.trunk = nn.Sequential(nn.Conv2d(3, 6, 4, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.visual.head = nn.Linear(6, 8)
        self.names = nn.Embedding(4, 8)
        self.logit_scale = nn.Parameter(torch.tensor(1.0))

    def encode_image(self, pixels, normalize):
        return nn.functional.normalize(self.visual(pixels), dim=-1)

    def encode_text(self, tokens, normalize):
        return nn.functional.normalize(self.names(tokens[:, 0]), dim=-1)


@pytest.mark.parametrize(("part", "passes"), [("image", 2), ("projection", 1)])
def test_what_is_kept_is_what_was_before_and_a_trunk_that_is_not_trained_is_passed_once(part, passes):
    network = Pair()
    choose_parameters(network, part)
    encoder = PairEncoder(network, keep=True)
    pixels, tokens, seen = torch.randn(3, 3, 8, 8), torch.arange(3)[:, None], []
    for trunk in [m.trunk for m in (network.visual, encoder.before) if hasattr(m, "trunk")]:
        trunk.register_forward_hook(lambda *_: seen.append(1))
    before = encoder(pixels, tokens)[0].detach()
    assert len(seen) == passes
    with torch.no_grad():
        network.visual.head.weight[0] += 3
    image, _, _, known = encoder(pixels, tokens)
    torch.testing.assert_close(known, before)
    assert not known.requires_grad
    assert float(drift(image.detach(), known)) > 0.01


def test_checkpointed_activations_give_the_same_gradient(tiny_model):
    _, _, found = gradients(tiny_model, 1, checkpointing=True)
    _, _, expected = gradients(tiny_model, 1)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-5 * float(gradient.abs().max()), msg=name)


def training_photos(folder, model):
    dataset = open_dataset(folder).select("train")
    tokenize = load_model(str(model)).tokenize
    examples = make_examples(dataset, class_prompts("plain", dataset.classnames), tokenize)
    return TrainingPhotos(examples, load_model(str(model)).config["preprocess_cfg"])


def test_an_unreadable_photo_is_stood_in_for_by_one_of_its_class(tmp_path, tiny_model):
    write_squares(tmp_path / "train")
    (tmp_path / "train" / "blue_jay" / "2.png").write_bytes(b"no image")
    photos = training_photos(tmp_path, tiny_model)
    numbers = (0.5, 0.5, 0.5, 0.5, 0.5)
    assert np.array_equal(photos.read(8, numbers), photos.read(9, numbers))
    assert list(photos.unreadable) == [8]
    assert "blue_jay/2.png: not an image" in photos.unreadable[8]


def test_a_class_without_a_readable_photo_is_an_error(tmp_path, tiny_model):
    write_squares(tmp_path / "train", photos=1)
    (tmp_path / "train" / "blue_jay" / "0.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"no training photo of a class can be read \(.*blue_jay/0.png"):
        training_photos(tmp_path, tiny_model).read(1, (0.5,) * 5)


def test_batches_come_in_order_whatever_the_threads_do(squares, tiny_model):
    photos = training_photos(squares, tiny_model)
    rows = [np.array([3, 20]), np.array([7, 0])]
    views = [np.random.default_rng(i).random((2, 5)) for i in range(2)]
    batches = list(photos.batches(rows, views, workers=4))
    for batch, some, numbers in zip(batches, rows, views, strict=True):
        assert np.array_equal(batch.numpy(), [photos.read(int(r), n) for r, n in zip(some, numbers, strict=True)])


def test_pixels_are_normalised_as_the_model_was_trained(squares, tiny_model):
    photos = training_photos(squares, tiny_model)
    grey = torch.full((1, 32, 32, 3), 102, dtype=torch.uint8)
    found = photos.to_network(grey, torch.device("cpu"))
    assert found.shape == (1, 3, 32, 32)
    expected = [(0.4 - m) / s for m, s in zip((0.48, 0.46, 0.41), (0.27, 0.26, 0.28), strict=True)]
    assert found[0, :, 0, 0].tolist() == pytest.approx(expected, abs=1e-6)
