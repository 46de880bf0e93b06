"""Weights that a network can have: as many as its configuration describes, floating-point, finite and not empty."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from flip.errors import ModelError
from flip.files import JsonObject

if TYPE_CHECKING:
    import torch

    from flip.clip.network import ClipNetwork
    from flip.clip.state import State


#: Parameters of a network that may be made whatever its weights are.
_SMALL = 10_000_000


def require_size(model_cfg: JsonObject, state: State, config: str, weights: str) -> None:
    """Raise a ModelError, before a network takes memory, where a configuration describes more than the weights hold.

    Parameters
    ----------
    model_cfg : dict
        As :func:`flip.clip.checks.check_model_cfg` returned it.
    state : dict of tensors
    config, weights : str
        For messages.
    """
    least, held = least_parameters(model_cfg), sum(tensor.numel() for tensor in state.values())
    # A few absent tensors are named one by one, when the weights are put into the network.
    if least > 2 * held + _SMALL:
        raise ModelError(
            f"{config} describes a network of {least:,} parameters or more, and the weights {weights} hold {held:,}; "
            "layers, width and vocab_size of its towers must be those of the weights"
        )


def least_parameters(model_cfg: JsonObject) -> int:
    """Return a lower bound of the parameters of a network, without its positional embeddings and borrowed towers."""
    vision, text, multimodal = (model_cfg.get(f"{part}_cfg") or {} for part in ("vision", "text", "multimodal"))
    bound = 0
    if not vision.get("timm_model_name"):
        bound += _blocks(vision, 768)
    if not text.get("hf_model_name"):
        bound += _blocks(text, 512) + text.get("vocab_size", 49408) * text.get("width", 512)
    return bound + (_blocks(multimodal, 512) if multimodal else 0)


def _blocks(tower: Mapping[str, object], usual_width: int) -> int:
    """Return the parameters of the attention and the two linear layers of all blocks."""
    width, layers, ratio = tower.get("width", usual_width), tower.get("layers", 12), tower.get("mlp_ratio", 4)
    if not isinstance(width, int):
        return 0
    if not isinstance(layers, int) or not isinstance(ratio, (int, float)):
        return width * width
    return layers * (4 * width * width + 2 * int(width * ratio) * width)


def require_floating(network: ClipNetwork, state: State, weights: str) -> None:
    """Raise a ModelError where a parameter's tensor holds whole numbers, such as the bits of others."""
    names = {name.removeprefix("text.") for name, _ in network.named_parameters()}
    for name, tensor in state.items():
        if name.removeprefix("text.") in names and not tensor.is_floating_point():
            kind = str(tensor.dtype).removeprefix("torch.")
            raise ModelError(
                f"the weights {weights} hold {kind} as {name}; parameters are floating-point numbers, fetch the file "
                "again"
            )


def require_values(network: ClipNetwork, weights: str) -> None:
    """Raise a ModelError for NaN or infinity among parameters, and where more than half of the matrices are empty."""
    parameters = list(network.parameters())
    if not all(_is_finite(parameter) for parameter in parameters):
        raise ModelError(f"the weights {weights} hold NaN or infinity; take an earlier checkpoint")
    matrices = [parameter for parameter in parameters if parameter.ndim > 1]
    empty = sum(not _has_values(matrix) for matrix in matrices)
    if empty > len(matrices) / 2:
        raise ModelError(
            f"the weights {weights} hold nothing but zeros in {empty} of {len(matrices)} matrices; fetch the file again"
        )


def _is_finite(values: torch.Tensor) -> bool:
    import torch

    # The sum is quick, and finite only where all of them are; that of finite values may overflow.
    return bool(torch.isfinite(values.sum())) or bool(torch.isfinite(values).all())


def _has_values(values: torch.Tensor) -> bool:
    return bool(values[0].any()) or bool(values.any())
