"""Trained parameters and their learning rates: towers, last layers or low-rank additions."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from flip.errors import ConfigError

if TYPE_CHECKING:
    from flip.clip.network import ClipNetwork

#: Peak learning rates of a pretrained tower, of random weights, and the factor for low-rank additions.
TRANSFORMER_LR = 1e-5
CONVOLUTIONAL_LR = 3e-4
SCRATCH_LR = 5e-4
#: Of a convolutional tower whose model names the classes well already.
GENTLE_CONVOLUTIONAL_LR = 5e-5
LORA_FACTOR = 10.0
#: Of low-rank additions at few shots, for both towers: CLIP-LoRA's (Zanella & Ben Ayed, CVPRW 2024) where the image
#: tower is a transformer; the other was chosen on training photos of the sample that were not drawn.
FEW_SHOT_LORA_LR, FEW_SHOT_CONVOLUTIONAL_LORA_LR = 2e-4, 1e-3

#: Beginnings of the names of the projections into the shared space, in open_clip's model classes.
PROJECTIONS = (
    "visual.proj",
    "visual.head.",
    "visual.attnpool.c_proj.",
    "text_projection",
    "text.text_projection",
    "text.proj",
)

#: Parameters that the contrastive loss does not reach.
UNUSED = ("logit_bias", "text_decoder.")


@dataclass(frozen=True)
class LearningRates:
    """Peak learning rate of each tower, and why."""

    image: float
    text: float
    reason: str


def choose_parameters(network: nn.Module, part: str) -> None:
    """Let the parameters of one part require gradients, and no others.

    Parameters
    ----------
    network : open_clip model
    part : {"full", "image", "text", "projection"}
        The scale of the logits belongs to each.

    Raises
    ------
    ConfigError
        If the network has no such part.
    """
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(belongs_to(name, part))
    if not any(p.requires_grad for n, p in network.named_parameters() if n != "logit_scale"):
        raise ConfigError(f"--train {part}: this model has no such layers of its own; pass --train full, image or text")


def belongs_to(name: str, part: str) -> bool:
    """Return whether a parameter or layer of this name belongs to a part of the network."""
    if name.startswith(UNUSED):
        return False
    of_image = name.startswith("visual.")
    parts = {"full": True, "image": of_image, "text": not of_image, "projection": name.startswith(PROJECTIONS)}
    return name == "logit_scale" or parts[part]


def is_convolutional(tower: nn.Module) -> bool:
    """Return whether a tower is a convolutional network: a transformer has at most a stem of convolutions."""
    return sum(isinstance(module, nn.Conv2d) for module in tower.modules()) > 4


def learning_rates(
    network: ClipNetwork, given: float | None, *, lora: bool = False, scratch: bool = False, few_shot: bool = False
) -> LearningRates:
    """Return the peak learning rates: as given for both towers, else a default for each.

    A pretrained transformer is easily spoilt; a convolutional trunk hardly moves at a transformer's rate.
    """
    if given is not None:
        return LearningRates(given, given, "as given")
    if scratch:
        return LearningRates(SCRATCH_LR, SCRATCH_LR, "random weights")
    factor = LORA_FACTOR if lora else 1.0
    convolutional = is_convolutional(network.visual)
    image = CONVOLUTIONAL_LR if convolutional else TRANSFORMER_LR
    kind = "convolutional" if convolutional else "transformer"
    if few_shot and lora:
        rate = FEW_SHOT_CONVOLUTIONAL_LORA_LR if convolutional else FEW_SHOT_LORA_LR
        return LearningRates(rate, rate, f"{kind} image tower, low-rank at few shots")
    return LearningRates(
        factor * image,
        factor * TRANSFORMER_LR,
        f"{kind} image tower, transformer text tower{', low-rank' if lora else ''}",
    )


def parameter_groups(network: nn.Module, rates: LearningRates, weight_decay: float) -> list[dict[str, object]]:
    """Return AdamW's groups of the parameters that require gradients; the schedule multiplies their ``peak_lr``.

    Matrices decay. Biases, norms and the scale do not, nor do embeddings: most of their rows are not in a batch, and
    would only shrink.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in trained(network):
        lr = rates.image if name.startswith("visual.") else rates.text
        decays = parameter.ndim >= 2 and "embedding" not in name
        groups.setdefault((lr, weight_decay if decays else 0.0), []).append(parameter)
    return [{"params": p, "lr": lr, "peak_lr": lr, "weight_decay": decay} for (lr, decay), p in groups.items()]


def trained(network: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield name and parameter of every parameter that is trained."""
    return ((name, p) for name, p in network.named_parameters() if p.requires_grad)


def training_mode(network: nn.Module, *, batch_norm: bool) -> None:
    """Put a network in training mode, its BatchNorm layers only where asked.

    A pretrained BatchNorm keeps its statistics: those of a few class-balanced batches are worse, and would make an
    embedding depend on the rest of its batch.
    """
    network.train()
    if not batch_norm:
        for module in network.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()


def clamp_scale(network: ClipNetwork) -> None:
    """Keep the scale of the logits at 100 or less, as CLIP does (Radford et al., ICML 2021, section 2.5)."""
    with torch.no_grad():
        network.logit_scale.clamp_(max=math.log(100))
