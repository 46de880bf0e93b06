"""Low-rank additions (Hu et al., ICLR 2022) to the layers of a dual encoder, by peft."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from flip.errors import ConfigError
from flip.training.clip.trainable import belongs_to


def add_lora(network: nn.Module, rank: int, part: str, seed: int) -> Any:
    """Add low-rank layers to a network in place; they and the scale of the logits are all that is then trained.

    They go to attention and linear layers, and to pointwise convolutions, of the towers that are trained.

    Parameters
    ----------
    network : open_clip model
    rank : int
    part : {"full", "image", "text"}
    seed : int
        Of the additions' first weights; their product starts at zero.

    Returns
    -------
    peft.tuners.lora.LoraModel
        For :func:`merge_lora`.

    Raises
    ------
    ConfigError
        If ``part`` is "projection", or the rank is larger than every layer.
    """
    from peft import LoraConfig
    from peft.tuners.lora import LoraModel

    if part == "projection":
        raise ConfigError(
            "--lora goes with --train full, image or text; the last layers alone are small: leave --lora out"
        )
    targets = lora_targets(network, part)
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets, lora_dropout=0.0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tuner = LoraModel(network, {"default": config}, "default")
    for name, parameter in network.named_parameters():
        parameter.requires_grad_("lora_" in name or name == "logit_scale")
    return tuner


def lora_targets(network: nn.Module, part: str) -> list[str]:
    """Return the names of the layers that get low-rank additions.

    Not a text projection with a bias: open_clip asks whether it is a ``Linear``, which peft's stand-in is not.
    """
    attention = {name for name, module in network.named_modules() if isinstance(module, nn.MultiheadAttention)}
    return [
        name
        for name, module in network.named_modules()
        if belongs_to(name, part)
        and (name in attention or _is_linear(module))
        # peft adds to the output layer of an attention with the attention itself.
        and name.rpartition(".")[0] not in attention
        and name.rpartition(".")[2] != "text_projection"
    ]


def _is_linear(module: nn.Module) -> bool:
    if isinstance(module, nn.Conv2d):
        return module.kernel_size == (1, 1) and module.groups == 1
    return isinstance(module, nn.Linear)


def attention_weights(network: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield name and parameter of attention layers.

    peft adds to their weights before each forward pass and subtracts after it, so their last bits wander though they
    are not trained: a run that resumes bit for bit must keep them.
    """
    for prefix, module in network.named_modules():
        if isinstance(module, nn.MultiheadAttention):
            yield from ((f"{prefix}.{name}", parameter) for name, parameter in module.named_parameters())


def merge_lora(tuner: Any) -> nn.Module:
    """Return the network with its additions merged into its weights, under open_clip's own names."""
    network: nn.Module = tuner.merge_and_unload()
    return network
