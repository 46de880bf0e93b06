"""The optimiser of every training."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch


def make_adamw(
    parameters: Iterable[torch.Tensor] | Iterable[dict[str, Any]], device: torch.device, lr: float, weight_decay: float
) -> torch.optim.AdamW:
    """Return AdamW (Loshchilov and Hutter, ICLR 2019) of parameters, or of groups of them, on a device.

    On a processor each tensor is updated in one pass: the dozen passes of the plain form take a tenth of a step. On a
    GPU the fused form would count its steps there, where a checkpoint of a processor's run does not have them.
    """
    return torch.optim.AdamW(parameters, lr=lr, weight_decay=weight_decay, fused=device.type == "cpu")
