"""Few-shot draws: balanced samples by seed, with mean and interval over the draws."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, NotRequired, TypedDict

import numpy as np

from flip.arrays import IntArray
from flip.data.dataset import few_shot_indices
from flip.metrics import mean_interval


class Draw(NamedTuple):
    """One draw: the number of shots (None for all photos), the seed, and the training rows drawn."""

    shots: int | None
    seed: int
    rows: IntArray


class DrawScore(NamedTuple):
    """A draw's top-1 accuracy in percent, and the name of the classifier that was fitted."""

    draw: Draw
    top1: float
    head: str


def draws(labels: IntArray, shots: Sequence[int | None], seeds: int) -> Iterator[Draw]:
    """Yield ``seeds`` draws for each number of shots, and one where every photo is drawn.

    Parameters
    ----------
    labels : int array of shape (n,)
        Labels of the training photos.
    shots : sequence of int or None
        None takes every photo, and so does a number that no class exceeds: that draw is the same whatever the seed.
    seeds : int
    """
    most = int(np.bincount(labels).max(initial=0))
    for k in shots:
        if k is None or k >= most:
            yield Draw(k, 0, np.arange(len(labels)))
        else:
            yield from (Draw(k, seed, few_shot_indices(labels, k, seed)) for seed in range(seeds))


def count_draws(shots: Sequence[int | None], seeds: int) -> int:
    """Return the number of draws that :func:`draws` yields, at most."""
    return sum(1 if k is None else seeds for k in shots)


class ShotRow(TypedDict):
    """Top-1 at one number of shots ("all" for every photo): mean over the draws and 95 % interval, with the head."""

    shots: int | str
    top1: float
    ci95: list[float] | None
    seeds: int
    head: NotRequired[str]


def few_shot_rows(scored: Sequence[DrawScore]) -> list[ShotRow]:
    """Return one row for each number of shots: mean and 95 % Student-t interval of top-1 over its draws.

    Returns
    -------
    list of dict
        ``shots``, ``top1``, ``ci95`` (None with a single draw), ``seeds`` and ``head``, in the order of the draws.
    """
    rows: list[ShotRow] = []
    for k in dict.fromkeys(score.draw.shots for score in scored):
        own = [score for score in scored if score.draw.shots == k]
        mean, low, high = mean_interval([score.top1 for score in own])
        rows.append(
            {
                "shots": "all" if k is None else k,
                "top1": mean,
                "ci95": [max(low, 0.0), min(high, 100.0)] if len(own) > 1 else None,
                "seeds": len(own),
                "head": ", ".join(sorted({score.head for score in own})),
            }
        )
    return rows
