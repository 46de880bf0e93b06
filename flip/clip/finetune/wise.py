"""WiSE-FT: the average of a model before and after fine-tuning (Wortsman et al., CVPR 2022, equation 1)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from flip.metrics import paired_interval

#: The weights that a sweep tries.
WEIGHTS = tuple(i / 10 for i in range(11))

Correct = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class WisePoint:
    """One weight of a sweep.

    ``val_top1`` is the zero-shot of the validation photos; ``held_out`` that of photos of classes that were not trained
    on, with its difference from before fine-tuning and the 95 % interval of that. NaN where there are no such photos.
    """

    weight: float
    val_top1: float
    held_out: float
    difference: float
    ci95: tuple[float, float]


def interpolate(
    before: dict[str, torch.Tensor], after: dict[str, torch.Tensor], weight: float
) -> dict[str, torch.Tensor]:
    """Return ``(1 − weight) · before + weight · after`` of floating-point tensors, and the others as they are after."""
    return {
        name: torch.lerp(before[name].float(), tensor.float(), weight).to(tensor.dtype)
        if tensor.is_floating_point()
        else tensor
        for name, tensor in after.items()
    }


def sweep(score: Callable[[float], tuple[Correct, Correct]]) -> list[WisePoint]:
    """Return how each weight does.

    Parameters
    ----------
    score : callable
        Weight → which validation photos, and which photos of held-out classes, are named rightly.
    """
    points, before = [], np.empty(0, bool)
    for weight in WEIGHTS:
        val, held_out = score(weight)
        before = held_out if weight == 0 else before
        difference, low, high = paired_interval(held_out, before)
        points.append(WisePoint(weight, _percent(val), _percent(held_out), difference, (low, high)))
    return points


def choose(points: list[WisePoint]) -> float:
    """Return the weight that a sweep recommends: the best on the validation photos, the smallest of equals.

    With photos of held-out classes, only weights at which their zero-shot has not fallen beyond its paired interval are
    considered; without validation photos, the largest of those.
    """
    allowed = [point for point in points if point.weight == 0 or not point.ci95[1] < 0]
    if np.isnan(points[0].val_top1):
        return max(point.weight for point in allowed)
    return max(allowed, key=lambda point: (point.val_top1, -point.weight)).weight


def _percent(correct: Correct) -> float:
    return 100.0 * float(correct.mean()) if len(correct) else float("nan")
