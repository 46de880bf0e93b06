"""Class-balanced sampling: every class equally often in a batch, each photo about once per epoch."""

from __future__ import annotations

import math

import numpy as np

from flip.arrays import BoolArray, IntArray


def balanced_rows(
    labels: IntArray,
    slots: int,
    rng: np.random.Generator,
    *,
    generated: BoolArray | None = None,
    generated_share: float = 0.0,
) -> IntArray:
    """Return the rows that fill ``slots`` places, so that any stretch of them holds the classes equally often.

    Each class's photos come in random order, and again from the start in another order once all have come: with equal
    classes and as many places as photos, each comes once.

    Parameters
    ----------
    labels : int array of shape (n,)
    slots : int
    rng : numpy.random.Generator
    generated : bool array of shape (n,), optional
        Rows of generated images, which fill only a share of their class's places.
    generated_share : float
        That share, from 0 to 1; a class without generated images has none.

    Returns
    -------
    int array of shape (slots,)
    """
    generated = np.zeros(len(labels), bool) if generated is None else generated
    classes = np.unique(labels[~generated])
    rounds = math.ceil(slots / len(classes))
    order = np.concatenate([rng.permutation(classes) for _ in range(rounds)])[:slots]
    wants_generated = rng.random(slots) < generated_share
    rows = np.empty(slots, np.int64)
    for c in classes:
        real, made = np.flatnonzero((labels == c) & ~generated), np.flatnonzero((labels == c) & generated)
        places = np.flatnonzero(order == c)
        takes_made = wants_generated[places] & (len(made) > 0)
        rows[places[~takes_made]] = _in_turn(real, int((~takes_made).sum()), rng)
        rows[places[takes_made]] = _in_turn(made, int(takes_made.sum()), rng)
    return rows


def _in_turn(rows: IntArray, n: int, rng: np.random.Generator) -> IntArray:
    """Return n of the rows: all in random order, then all in another, and so on."""
    if n == 0:
        return np.empty(0, np.int64)
    return np.concatenate([rng.permutation(rows) for _ in range(math.ceil(n / len(rows)))])[:n]
