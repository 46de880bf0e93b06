"""Do generated pictures help? Heads with and without them, against as many extra views of the same real photos."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from flip.arrays import Array, FloatArray, IntArray
from flip.classify.heads import Head, Inputs
from flip.errors import ConfigError
from flip.metrics import paired_interval_over_draws
from flip.settings import Progress
from flip.studies.few_shot import Draw, draws

#: No extra pictures, and the arm that the others have to beat: as many random views of the same photos.
NONE, CONTROL = "none", "views"
TEXT, IMAGE = "text-to-image", "image-to-image"

#: How the study is made, as results print it.
PROTOCOL = {
    "extras": "each belongs to one training photo; a draw uses those of its own photos, as many in every arm",
    "weighting": "a draw's weights are scaled to sum to its number of photos, so that no arm is regularised less",
    "validation": "inside the draw, on its photos; a held-out photo's extras are left out with it",
    "interval": "95 %, paired over test photos and draws (two-way analysis of variance)",
}


class Condition(NamedTuple):
    """What is compared at one number of shots: an arm, and how much one of its extras counts beside a photo."""

    shots: int | None
    arm: str
    weight: float | None


@dataclass(frozen=True)
class TrainingPool:
    """Training photos with all extras that were made from them.

    Attributes
    ----------
    photos : float32 array of shape (n, d), unit rows
    labels : int array of shape (n,)
    extras : mapping of arm → float32 array of shape (n, m, d)
        Row i holds the m extras of photo i; every arm has as many.
    """

    photos: FloatArray
    labels: IntArray
    extras: Mapping[str, FloatArray]

    def __post_init__(self) -> None:
        for arm, extra in self.extras.items():
            if extra.ndim != 3 or (len(extra), extra.shape[2]) != self.photos.shape:
                raise ConfigError(
                    f"extras of arm {arm!r} have shape {extra.shape} for photos of shape {self.photos.shape}; "
                    "pass (photos, extras of each, width)"
                )
        if len({extra.shape[1] for extra in self.extras.values()}) > 1:
            counts = ", ".join(f"{arm} {extra.shape[1]}" for arm, extra in self.extras.items())
            raise ConfigError(f"the arms have unequal numbers of extras per photo ({counts}); give each as many")


def fit(head: Head, pool: TrainingPool, rows: IntArray, arm: str = NONE, weight: float = 1.0) -> Head:
    """Fit a head to some training photos and, but for arm ``none``, to their own extras.

    Weights are scaled to sum to the number of photos: an extra beside each photo would otherwise also weaken the
    regularisation, and a gain of that would be taken for one of the pictures. Whatever the head chooses it chooses on
    held-out photos; the extras of a held-out photo are left out with it.

    Parameters
    ----------
    head : Head
        Not fitted yet.
    pool : TrainingPool
    rows : int array of shape (s,)
        The photos drawn.
    arm : str
    weight : float
        How much an extra counts beside a photo; at least 0.
    """
    image, group = pool.photos[rows], rows
    if arm != NONE:
        extra = pool.extras[arm][rows]
        image = np.concatenate([image, extra.reshape(-1, image.shape[1])])
        group = np.concatenate([rows, np.repeat(rows, extra.shape[1])])
    real = np.arange(len(group)) < len(rows)
    weights = np.where(real, 1.0, weight)
    return head.fit(Inputs(image), pool.labels[group], weights * (len(rows) / weights.sum()), real, group)


def compare(
    pool: TrainingPool,
    test: FloatArray,
    test_labels: IntArray,
    make_head: Callable[[int], Head],
    *,
    shots: Sequence[int | None],
    seeds: int,
    weights: Sequence[float],
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Fit a head for every draw, arm and weight, and return what :func:`rows_of` says of them.

    Parameters
    ----------
    pool : TrainingPool
    test : float32 array of shape (t, d)
        Scored only.
    test_labels : int array of shape (t,)
    make_head : callable
        Returns an unfitted head for a seed.
    shots : sequence of int or None
        Training photos per class; None for all of them, which is one draw.
    seeds : int
        Draws for each number of shots.
    weights : sequence of float
    progress : callable, optional
        Called with 1 after each fit.
    """
    correct: dict[Condition, list[Array]] = {}
    for draw, condition in plan(pool.labels, shots, seeds, tuple(pool.extras), weights):
        weight = 1.0 if condition.weight is None else condition.weight
        head = fit(make_head(draw.seed), pool, draw.rows, condition.arm, weight)
        correct.setdefault(condition, []).append(head.predict(Inputs(test)) == test_labels)
        if progress:
            progress(1)
    return rows_of({condition: np.stack(found) for condition, found in correct.items()})


def plan(
    labels: IntArray, shots: Sequence[int | None], seeds: int, arms: Sequence[str], weights: Sequence[float]
) -> Iterator[tuple[Draw, Condition]]:
    """Yield every fit: the draws of each number of shots, each without extras and with every arm and weight."""
    for draw in draws(labels, shots, seeds):
        yield draw, Condition(draw.shots, NONE, None)
        for arm in arms:
            for weight in weights:
                yield draw, Condition(draw.shots, arm, weight)


def rows_of(correct: Mapping[Condition, Array]) -> list[dict[str, Any]]:
    """Return a row for each condition, by shots, arm and weight.

    Parameters
    ----------
    correct : mapping of Condition → bool array of shape (s, t)
        Whether the head of draw s names test photo t rightly.

    Returns
    -------
    list of dict
        ``shots``, ``arm``, ``weight``, ``seeds``, ``top1`` (mean over the draws), and in points with their intervals
        ``over_none`` and ``over_none_ci95`` (the gain over no extras), ``over_views`` and ``over_views_ci95`` (the gain
        over the control at the same weight); None where that is the row itself.
    """
    order = list(dict.fromkeys(c.shots for c in correct))
    rows = []
    for condition in sorted(correct, key=lambda c: order.index(c.shots)):
        own, (shots, arm, weight) = correct[condition], condition
        row: dict[str, Any] = {"shots": "all" if shots is None else shots, "arm": arm, "weight": weight}
        row |= {"seeds": len(own), "top1": 100.0 * float(own.mean())}
        none = None if arm == NONE else correct[Condition(shots, NONE, None)]
        control = None if arm in (NONE, CONTROL) else correct.get(Condition(shots, CONTROL, weight))
        for name, other in (("over_none", none), ("over_views", control)):
            gain, low, high = (None,) * 3 if other is None else paired_interval_over_draws(own, other)
            row |= {name: gain, f"{name}_ci95": None if other is None else [low, high]}
        rows.append(row)
    return rows
