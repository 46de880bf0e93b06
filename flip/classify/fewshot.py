"""The few-shot protocol: balanced draws by seed, a fit for each, mean and interval over the draws."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from flip.metrics import mean_interval

Rows = npt.NDArray[np.int64]


class Draw(NamedTuple):
    """One draw: the number of shots (None for all photos), the seed, and the training rows drawn."""

    shots: int | None
    seed: int
    rows: Rows


def draws(
    labels: Rows, shots: Sequence[int | None], seeds: int, draw: Callable[[Rows, int, int], Rows]
) -> Iterator[Draw]:
    """Yield ``seeds`` draws for each number of shots, and one for all photos.

    Parameters
    ----------
    labels : int array of shape (n,)
        Labels of the training photos.
    shots : sequence of int or None
        None takes every photo; that draw is the same whatever the seed.
    draw : callable
        ``draw(labels, shots, seed)`` returns row indices.
    """
    for k in shots:
        if k is None:
            yield Draw(None, 0, np.arange(len(labels)))
        else:
            yield from (Draw(k, seed, draw(labels, k, seed)) for seed in range(seeds))


def few_shot_rows(top1: Sequence[tuple[Draw, float]], **about: Any) -> list[dict[str, Any]]:
    """Return one row for each number of shots: mean and 95 % Student-t interval of top-1 over its draws.

    Parameters
    ----------
    top1 : sequence of (Draw, float)
        Percentages, one a draw.
    **about
        What else every row says (``head``).
    """
    rows = []
    for k in dict.fromkeys(draw.shots for draw, _ in top1):
        scores = [score for draw, score in top1 if draw.shots == k]
        mean, low, high = mean_interval(scores)
        shots = "all" if k is None else k
        rows.append({"shots": shots, "top1": mean, "ci95": (low, high), "seeds": len(scores), **about})
    return rows


def short_classes(labels: Rows, shots: int) -> int:
    """Return how many classes have fewer photos than ``shots``; each of those gives all it has."""
    return int((np.unique(labels, return_counts=True)[1] < shots).sum())
