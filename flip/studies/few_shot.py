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


def few_shot_rows(scored: Sequence[tuple[Draw, float, str]]) -> list[dict[str, Any]]:
    """Return one row for each number of shots: mean and 95 % Student-t interval of top-1 over its draws.

    Parameters
    ----------
    scored : sequence of (Draw, float, str)
        For each draw its top-1 in percent, and the head that was used.

    Returns
    -------
    list of dict
        ``shots``, ``top1``, ``ci95`` (None with a single draw), ``seeds`` and ``head``, in the order of the draws.
    """
    rows = []
    for k in dict.fromkeys(draw.shots for draw, _, _ in scored):
        own = [(score, head) for draw, score, head in scored if draw.shots == k]
        mean, low, high = mean_interval([score for score, _ in own])
        rows.append(
            {
                "shots": "all" if k is None else k,
                "top1": mean,
                "ci95": [low, high] if len(own) > 1 else None,
                "seeds": len(own),
                "head": ", ".join(sorted({head for _, head in own})),
            }
        )
    return rows


def short_classes(labels: Rows, shots: int) -> int:
    """Return how many classes have fewer photos than ``shots``; each of those gives all it has."""
    return int((np.unique(labels, return_counts=True)[1] < shots).sum())
