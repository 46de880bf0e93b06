"""The learning rate schedule."""

from __future__ import annotations

import math
from typing import Literal


def lr_factor(step: int, steps: int, warmup: float, *, then: Literal["cosine", "constant"]) -> float:
    """Return the factor of the peak learning rate at a step: a linear rise, then half a cosine to 0 or a constant.

    Parameters
    ----------
    step : int
        From 0.
    steps : int
        Of the whole run.
    warmup : float
        Share of the steps in which it rises.
    then : {"cosine", "constant"}
        With a cosine the rise ends at a whole step.
    """
    rising = round(warmup * steps) if then == "cosine" else warmup * steps
    if then == "constant" or step < rising:
        return min(1.0, (step + 1) / rising if rising else 1.0)
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))
