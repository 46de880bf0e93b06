"""Which photos meet in a batch: every class equally often, each photo about once an epoch."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


def balanced_rows(
    labels: IntArray,
    slots: int,
    rng: np.random.Generator,
    *,
    extra: BoolArray | None = None,
    extra_share: float = 0.0,
) -> IntArray:
    """Return the rows that fill ``slots`` places, so that any stretch of them holds the classes equally often.

    Each class's photos come in random order, and again from the start in another order once all have come: with equal
    classes and as many places as photos, each comes once.

    Parameters
    ----------
    labels : int array of shape (n,)
    slots : int
    rng : numpy.random.Generator
    extra : bool array of shape (n,), optional
        Rows that fill only a share of their class's places: drawn photos beside real ones.
    extra_share : float
        That share, from 0 to 1; a class without extra rows has none.

    Returns
    -------
    int array of shape (slots,)
    """
    extra = np.zeros(len(labels), bool) if extra is None else extra
    classes = np.unique(labels[~extra])
    rounds = math.ceil(slots / len(classes))
    order = np.concatenate([rng.permutation(classes) for _ in range(rounds)])[:slots]
    wants_extra = rng.random(slots) < extra_share
    rows = np.empty(slots, np.int64)
    for c in classes:
        own, more = np.flatnonzero((labels == c) & ~extra), np.flatnonzero((labels == c) & extra)
        places = np.flatnonzero(order == c)
        takes_more = wants_extra[places] & (len(more) > 0)
        rows[places[~takes_more]] = _in_turn(own, int((~takes_more).sum()), rng)
        rows[places[takes_more]] = _in_turn(more, int(takes_more.sum()), rng)
    return rows


def _in_turn(rows: IntArray, n: int, rng: np.random.Generator) -> IntArray:
    """Return n of the rows: all in random order, then all in another, and so on."""
    if n == 0:
        return np.empty(0, np.int64)
    return np.concatenate([rng.permutation(rows) for _ in range(math.ceil(n / len(rows)))])[:n]
