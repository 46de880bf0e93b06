"""Do generated pictures help? Heads with and without them, against as many extra views of the same real photos."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypedDict

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
#: Text-to-image with the captions of photos of other classes behind the class's name, so that what is drawn around a
#: class says nothing of it (after BOB: arXiv 2510.24078).
SHUFFLED = "shuffled"

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
) -> list[GainRow]:
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

    def learn(draw: Draw, condition: Condition) -> Array:
        weight = 1.0 if condition.weight is None else condition.weight
        head = fit(make_head(draw.seed), pool, draw.rows, condition.arm, weight)
        return np.asarray(head.predict(Inputs(test)) == test_labels)

    return compare_learners(plan(pool.labels, shots, seeds, tuple(pool.extras), weights), learn, progress)


def compare_learners(
    planned: Iterable[tuple[Draw, Condition]],
    learn: Callable[[Draw, Condition], Array],
    progress: Progress | None = None,
) -> list[GainRow]:
    """Learn every draw and condition of a plan, and return what :func:`rows_of` says of them.

    Parameters
    ----------
    planned : iterable of (Draw, Condition)
    learn : callable
        Returns whether each test photo is named rightly, bool (t,).
    progress : callable, optional
        Called with 1 after each.
    """
    correct: dict[Condition, list[Array]] = {}
    for draw, condition in planned:
        correct.setdefault(condition, []).append(learn(draw, condition))
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


class GainRow(TypedDict):
    """Top-1 of one condition, and its gain over no extras and over the control; see :func:`rows_of`."""

    shots: int | str
    arm: str
    weight: float | None
    seeds: int
    top1: float
    over_none: float | None
    over_none_ci95: list[float] | None
    over_views: float | None
    over_views_ci95: list[float] | None


def rows_of(correct: Mapping[Condition, Array]) -> list[GainRow]:
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
    rows: list[GainRow] = []
    for condition in sorted(correct, key=lambda c: order.index(c.shots)):
        own, (shots, arm, weight) = correct[condition], condition
        none = None if arm == NONE else correct[Condition(shots, NONE, None)]
        control = None if arm in (NONE, CONTROL) else correct.get(Condition(shots, CONTROL, weight))
        over_none, over_none_ci95 = _gain(own, none)
        over_views, over_views_ci95 = _gain(own, control)
        rows.append(
            {
                "shots": "all" if shots is None else shots,
                "arm": arm,
                "weight": weight,
                "seeds": len(own),
                "top1": 100.0 * float(own.mean()),
                "over_none": over_none,
                "over_none_ci95": over_none_ci95,
                "over_views": over_views,
                "over_views_ci95": over_views_ci95,
            }
        )
    return rows


def _gain(own: Array, other: Array | None) -> tuple[float | None, list[float] | None]:
    if other is None:
        return None, None
    gain, low, high = paired_interval_over_draws(own, other)
    return gain, [low, high]
