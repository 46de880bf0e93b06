from __future__ import annotations

import copy
import math

import numpy as np
import open_clip
import pytest
import timm
import torch
from torch import nn

from flip.clip.model import load_model
from flip.errors import ConfigError
from flip.training.clip.lora import add_lora, lora_targets, merge_lora
from flip.training.clip.trainable import (
    choose_parameters,
    is_convolutional,
    learning_rates,
    parameter_groups,
    trained,
    training_mode,
)
from flip.training.clip.wise import WisePoint, ZeroShot, choose, interpolate, sweep
from tests.conftest import TINY_CONFIG


@pytest.fixture
def network(tiny_model):
    return load_model(str(tiny_model)).network


class ConvolutionalPair(nn.Module):
    """The parts of a dual encoder with a timm trunk that choosing looks at."""

    def __init__(self):
        super().__init__()
        self.visual = nn.Module()
        self.visual.trunk = timm.create_model("test_efficientnet", pretrained=False, num_classes=0)
        self.visual.head = nn.Sequential()
        self.visual.head.proj = nn.Linear(self.visual.trunk.num_features, 8)
        self.token_embedding = nn.Embedding(10, 8)
        self.logit_scale = nn.Parameter(torch.tensor(1.0))


def names(network):
    return {name for name, _ in trained(network)}


def test_each_part_trains_its_own_layers_and_the_scale(network):
    everything = {name for name, _ in network.named_parameters()}
    found = {}
    for part in ("full", "image", "text", "projection"):
        choose_parameters(network, part)
        found[part] = names(network)
    assert found["full"] == everything
    assert found["projection"] == {"visual.proj", "text_projection", "logit_scale"}
    assert found["image"] | found["text"] == everything
    assert found["image"] & found["text"] == {"logit_scale"}
    assert all(name.startswith("visual.") for name in found["image"] - {"logit_scale"})


def test_a_model_without_last_layers_of_its_own_is_refused():
    network = nn.Module()
    network.visual = nn.Linear(2, 2)
    with pytest.raises(ConfigError, match="--train projection: this model has no such layers"):
        choose_parameters(network, "projection")


def test_the_learning_rate_is_the_tower_s(network):
    vit, conv = learning_rates(network, None), learning_rates(ConvolutionalPair(), None)
    assert not is_convolutional(network.visual)
    assert (vit.image, vit.text) == (1e-5, 1e-5)
    assert (conv.image, conv.text) == (3e-4, 1e-5)
    assert "convolutional image tower" in conv.reason
    assert learning_rates(network, 2e-3).image == 2e-3
    assert learning_rates(network, None, lora=True).image == pytest.approx(1e-4)
    assert learning_rates(network, None, scratch=True).text == 5e-4
    few = [learning_rates(pair, None, lora=True, few_shot=True) for pair in (network, ConvolutionalPair())]
    assert [(rates.image, rates.text) for rates in few] == [(2e-4, 2e-4), (1e-3, 1e-3)]


def test_only_matrices_decay_and_towers_have_their_own_rate():
    pair = ConvolutionalPair()
    choose_parameters(pair, "full")
    groups = parameter_groups(pair, learning_rates(pair, None), 0.05)
    of = {id(p): (g["peak_lr"], g["weight_decay"]) for g in groups for p in g["params"]}
    assert of[id(pair.visual.head.proj.weight)] == (3e-4, 0.05)
    assert of[id(pair.visual.head.proj.bias)] == (3e-4, 0.0)
    assert of[id(pair.token_embedding.weight)] == (1e-5, 0.0)
    assert of[id(pair.logit_scale)] == (1e-5, 0.0)
    assert len(of) == sum(1 for _ in pair.parameters())


def test_batch_norm_stays_as_it_was_trained():
    pair = ConvolutionalPair()
    norms = [m for m in pair.modules() if isinstance(m, nn.BatchNorm2d)]
    training_mode(pair, batch_norm=False)
    assert pair.visual.trunk.training
    assert norms
    assert not any(m.training for m in norms)
    before = [m.running_mean.clone() for m in norms]
    pair.visual.trunk(torch.randn(2, 3, 64, 64))
    assert all(torch.equal(m.running_mean, b) for m, b in zip(norms, before, strict=True))
    training_mode(pair, batch_norm=True)
    assert all(m.training for m in norms)


def outputs(network):
    generator = torch.Generator().manual_seed(0)
    pixels, tokens = torch.randn(2, 3, 32, 32, generator=generator), torch.randint(1, 99, (2, 16), generator=generator)
    with torch.no_grad():
        return torch.cat([network.encode_image(pixels), network.encode_text(tokens)])


def test_low_rank_additions_start_at_nothing_train_alone_and_merge(network):
    before, state = outputs(network), copy.deepcopy(network.state_dict())
    tuner = add_lora(network, 2, "full", seed=0)
    torch.testing.assert_close(outputs(network), before)
    assert names(network) - {"logit_scale"} == {n for n, _ in network.named_parameters() if "lora_" in n}
    with torch.no_grad():
        for name, parameter in trained(network):
            parameter.add_(0.01 if "lora_" in name else 0.0)
    changed = outputs(network)
    assert (changed - before).abs().max() > 1e-3
    merged = merge_lora(tuner)
    torch.testing.assert_close(outputs(merged), changed, rtol=1e-4, atol=1e-5)
    assert merged.state_dict().keys() == state.keys()
    moved = {name for name, tensor in merged.state_dict().items() if not torch.equal(tensor, state[name])}
    assert "transformer.resblocks.0.attn.in_proj_weight" in moved
    assert "visual.transformer.resblocks.1.mlp.c_fc.weight" in moved
    assert "visual.conv1.weight" not in moved


def test_a_text_projection_with_a_bias_gets_no_low_rank_additions():
    """open_clip multiplies by whatever is no ``Linear`` there, and peft's stand-in is none."""
    config = TINY_CONFIG["model_cfg"]
    network = open_clip.CLIP(**{**config, "text_cfg": {**config["text_cfg"], "proj_bias": True}}).eval()
    assert isinstance(network.text_projection, nn.Linear)
    before = outputs(network)
    tuner = add_lora(network, 2, "full", seed=0)
    torch.testing.assert_close(outputs(network), before)
    assert outputs(merge_lora(tuner)).shape == before.shape


def test_low_rank_additions_get_a_gradient_in_every_layer(network):
    add_lora(network, 2, "full", seed=0)
    generator = torch.Generator().manual_seed(0)
    network.encode_image(torch.randn(2, 3, 32, 32, generator=generator)).square().mean().backward()
    grads = {n: p.grad for n, p in trained(network) if n.startswith("visual.") and "lora_B" in n}
    assert grads
    assert all(g is not None and g.abs().max() > 0 for g in grads.values())


def test_low_rank_additions_go_to_pointwise_convolutions_of_the_tower_that_is_trained():
    pair = ConvolutionalPair()
    targets = lora_targets(pair, "image")
    modules = dict(pair.named_modules())
    convolutions = [modules[name] for name in targets if isinstance(modules[name], nn.Conv2d)]
    assert convolutions
    assert all(c.kernel_size == (1, 1) and c.groups == 1 for c in convolutions)
    assert "visual.head.proj" in targets
    assert lora_targets(pair, "text") == []


def test_low_rank_additions_do_not_go_with_the_last_layers_alone(network):
    with pytest.raises(ConfigError, match="--lora goes with --train full, image or text"):
        add_lora(network, 2, "projection", seed=0)


def test_the_average_is_linear_and_leaves_counts_alone():
    before = {"w": torch.tensor([0.0, 4.0]), "n": torch.tensor(3)}
    after = {"w": torch.tensor([2.0, 0.0]), "n": torch.tensor(7)}
    mixed = interpolate(before, after, 0.25)
    assert mixed["w"].tolist() == [0.5, 3.0]
    assert int(mixed["n"]) == 7
    assert torch.equal(interpolate(before, after, 0.0)["w"], before["w"])
    assert torch.equal(interpolate(before, after, 1.0)["w"], after["w"])


def point(weight, val_loss, held_out_loss, highest=1.0):
    return WisePoint(weight, 80.0, val_loss, 60.0, held_out_loss, highest - 1, (highest - 2, highest))


def test_the_weight_with_the_least_sum_of_losses_is_chosen_among_those_that_forget_nothing_measurable():
    points = [point(0.0, 1.0, 1.0), point(0.3, 0.7, 1.1), point(0.5, 0.7, 1.1), point(0.8, 0.5, 1.2, -0.1)]
    assert choose(points) == 0.3
    assert choose([*points, point(1.0, 0.5, 1.2, 0.1)]) == 1.0
    nothing_held_out = [point(0.0, 1.0, math.nan, math.nan), point(0.6, 0.4, math.nan, math.nan)]
    assert choose(nothing_held_out) == 0.6
    assert choose([point(0.0, 0.5, 0.5, -1.0), point(0.6, 0.4, 0.4, -1.0)]) == 0.0


def test_a_sweep_compares_each_weight_with_none():
    right, half = np.ones(4, bool), np.array([True] * 50 + [False] * 50)
    before = np.array([True] * 90 + [False] * 10)

    def score(weight):
        correct = half if weight > 0.45 else before
        return ZeroShot(right, np.full(4, 0.5)), ZeroShot(correct, np.where(correct, 0.0, 2.0))

    points = sweep(score)
    assert [p.weight for p in points] == [i / 10 for i in range(11)]
    assert (points[0].val_top1, points[0].val_loss) == (100, 0.5)
    assert (points[0].held_out, points[0].difference) == (90, 0)
    assert points[0].held_out_loss == pytest.approx(0.2)
    assert points[5].difference == pytest.approx(-40)
    assert points[5].ci95[1] < 0
    assert points[4].ci95 == (0, 0)


def test_without_photos_a_sweep_has_no_numbers():
    nobody = ZeroShot(np.empty(0, bool), np.empty(0))
    points = sweep(lambda weight: (nobody, nobody))
    assert all(math.isnan(p.val_top1) and math.isnan(p.held_out_loss) for p in points)
