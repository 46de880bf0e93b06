"""WiSE-FT: interpolate the weights before and after fine-tuning (Wortsman et al., CVPR 2022, equation 1)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from flip.arrays import BoolArray, FloatArray
from flip.metrics import paired_interval

#: The weights that a sweep tries.
WEIGHTS = tuple(i / 10 for i in range(11))


@dataclass(frozen=True)
class ZeroShot:
    """Zero-shot of n photos: whether each is classified correctly (n,), and its cross-entropy (n,)."""

    correct: BoolArray
    loss: FloatArray

    def top1(self) -> float:
        """Return the top-1 in percent, NaN without photos."""
        return 100.0 * float(self.correct.mean()) if len(self.correct) else float("nan")

    def mean_loss(self) -> float:
        """Return the mean cross-entropy, NaN without photos."""
        return float(self.loss.mean()) if len(self.loss) else float("nan")


@dataclass(frozen=True)
class WisePoint:
    """One weight of a sweep; NaN where there are no such photos.

    Attributes
    ----------
    weight : float
        Of the fine-tuned model.
    val_top1, val_loss : float
        Zero-shot of the validation photos.
    held_out, held_out_loss : float
        Zero-shot of photos of the held-out classes.
    difference : float
        ``held_out`` minus its value before fine-tuning, in points.
    ci95 : (low, high)
        The 95 % interval of the difference.
    """

    weight: float
    val_top1: float
    val_loss: float
    held_out: float
    held_out_loss: float
    difference: float
    ci95: tuple[float, float]


def interpolate(
    before: dict[str, torch.Tensor], after: dict[str, torch.Tensor], weight: float
) -> dict[str, torch.Tensor]:
    """Return ``(1 − weight) · before + weight · after`` of floating-point tensors, and the others of ``after``."""
    return {
        name: torch.lerp(before[name].float(), tensor.float(), weight).to(tensor.dtype)
        if tensor.is_floating_point()
        else tensor
        for name, tensor in after.items()
    }


def sweep(score: Callable[[float], tuple[ZeroShot, ZeroShot]]) -> list[WisePoint]:
    """Score each of ``WEIGHTS``.

    Parameters
    ----------
    score : callable
        Weight → zero-shot of the validation photos, and of photos of held-out classes (perhaps no photos).
    """
    points, before = [], np.empty(0, bool)
    for weight in WEIGHTS:
        val, held_out = score(weight)
        before = held_out.correct if weight == 0 else before
        difference, low, high = paired_interval(held_out.correct, before)
        points.append(
            WisePoint(
                weight, val.top1(), val.mean_loss(), held_out.top1(), held_out.mean_loss(), difference, (low, high)
            )
        )
    return points


def choose(points: list[WisePoint]) -> float:
    """Return the weight with the least sum of both cross-entropies, the smallest of equals.

    Cross-entropy rather than accuracy: on a hundred photos accuracy moves by chance. Weights at which zero-shot of the
    held-out classes fell significantly (the 95 % paired interval is below 0) are left out.
    """
    allowed = [point for point in points if point.weight == 0 or not point.ci95[1] < 0]
    return min(
        allowed, key=lambda point: (float(np.nansum([point.val_loss, point.held_out_loss])), point.weight)
    ).weight
