"""The vote of the nearest neighbours over arrays, and its leave-one-out choices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from flip.arrays import BoolArray, FloatArray, IntArray
from flip.classify.calibration import fit_logit_weights, softmax
from flip.classify.index import NeighborIndex, Neighbors
from flip.classify.settings import AUTO_K, DEFAULT_TEMPERATURE
from flip.errors import ConfigError

#: Added to shares of votes before their logarithm is taken, chosen among.
FLOORS = (0.001, 0.003, 0.01, 0.03)
#: Comparisons of photos, and photos at least, from which the scale of probabilities is found.
MOST_COMPARISONS, FEWEST_SCORED = 200_000_000, 300


class ShareScale(NamedTuple):
    """Turns shares of votes s into probabilities in proportion to ``(s + floor) ** weight``, in the same order."""

    floor: float = 0.01
    weight: float = 1.0

    def probabilities(self, shares: FloatArray) -> FloatArray:
        """Return probabilities of shape (n, c) of shares of shape (n, c); equal shares stay equal."""
        return softmax(np.float32(self.weight) * np.log(shares + np.float32(self.floor)))


def fit_share_scale(shares: FloatArray, labels: IntArray) -> ShareScale:
    """Return the scale of the least log-loss on rows that did not vote for themselves.

    This is temperature scaling (Guo et al., ICML 2017) of smoothed logarithms: a class without a vote is improbable,
    not impossible.
    """
    fitted = {floor: fit_logit_weights([np.log(shares + np.float32(floor))], labels) for floor in FLOORS}
    floor = min(FLOORS, key=lambda floor: fitted[floor].log_loss)
    return ShareScale(floor, max(float(fitted[floor].weights[0]), 1e-3))


class KTrial(NamedTuple):
    """One k of a sweep and its leave-one-out accuracy on the training photos, in percent."""

    k: int
    train_top1: float


@dataclass(frozen=True)
class NeighborVotes:
    """Indexed training rows whose labels vote.

    Attributes
    ----------
    index : NeighborIndex
    labels : int array of shape (n,)
        Labels of the indexed rows.
    classes : int
        Number of classes c.
    k : int
    vote : {"uniform", "softmax"}
        ``softmax`` weighs a neighbour of similarity s by exp(s / temperature), as Wu et al. (CVPR 2018) do; with
        ``uniform`` a tie goes to the lowest class index.
    temperature : float
    trials : tuple of KTrial
        What was tried when k was chosen by leave-one-out.
    row_weight : float32 array of shape (n,) or None
        How much each indexed row's vote counts; None for 1 each.
    real : bool array of shape (n,) or None
        Rows that leave-one-out scores; generated images vote but are not scored.
    group : int array of shape (n,) or None
        Group id per row. Leave-one-out also drops rows of the same group (a photo and the images generated from it).
    """

    index: NeighborIndex
    labels: IntArray
    classes: int
    k: int
    vote: str = "softmax"
    temperature: float = DEFAULT_TEMPERATURE
    trials: tuple[KTrial, ...] = ()
    row_weight: FloatArray | None = None
    real: BoolArray | None = None
    group: IntArray | None = None

    def predict_proba(self, queries: FloatArray) -> FloatArray:
        """Return each class's share of the votes, shape (n, c)."""
        return self.vote_on(self.neighbors(queries))

    def neighbors(self, queries: FloatArray) -> Neighbors:
        """Return the k nearest training rows of each query."""
        return self.index.search(queries, self.k)

    def vote_on(self, neighbors: Neighbors) -> FloatArray:
        """Return each class's share of the votes of these neighbours, shape (n, c)."""
        return vote_shares(neighbors, self.labels, self.classes, self.vote, self.temperature, self.row_weight)

    def with_k(self, k: int | Sequence[int] | None) -> NeighborVotes:
        """Return the same votes with another k.

        Parameters
        ----------
        k : int, sequence of int, or None
            One k is taken as it is; of several the one with the best leave-one-out accuracy, the smallest of equals.
            None means ``flip.classify.settings.AUTO_K``, as far as there are rows.

        Raises
        ------
        ConfigError
            If k exceeds the number of rows (for a choice: of other rows).
        """
        n = len(self.labels)
        if isinstance(k, int) or (k is not None and len(k) == 1):
            chosen = k if isinstance(k, int) else k[0]
            if chosen > n:
                raise ConfigError(f"k={chosen} exceeds the {n} images in the index; pass -k {n} or fewer")
            return replace(self, k=chosen, trials=())
        ks = [value for value in AUTO_K if value < n] if k is None else list(k)
        if not ks:
            return replace(self, k=1, trials=())
        if max(ks) >= n:
            raise ConfigError(f"k={max(ks)} exceeds the {n - 1} other images in the index; pass -k up to {n - 1}")
        trials = self._leave_one_out(ks)
        best = max(trials, key=lambda trial: (trial.train_top1, -trial.k))
        return replace(self, k=best.k, trials=tuple(trials))

    def rows_to_scale_on(self) -> IntArray:
        """Return rows whose class has another row, evenly spread; fewer where there are many rows to compare with."""
        n = len(self.labels)
        scored = np.ones(n, bool) if self.real is None else self.real
        counts = np.bincount(self.labels, minlength=self.classes)
        rows = np.flatnonzero(scored & (counts[self.labels] > 1))
        most = max(FEWEST_SCORED, MOST_COMPARISONS // n)
        return rows[:: max(1, -(-len(rows) // most))]

    def leave_one_out_shares(self, k: int, rows: IntArray | None = None) -> FloatArray:
        """Return the vote shares of the ``k`` nearest other rows of each indexed row, or of ``rows``, shape (n, c)."""
        if rows is not None:
            return self.vote_on(self.index.search_others(k, self.group, rows))
        shares = np.empty((len(self.labels), self.classes), np.float32)
        for block, found in self.index.blocks_of_others(k, self.group):
            shares[block] = self.vote_on(found)
        return shares

    def _leave_one_out(self, ks: Sequence[int]) -> list[KTrial]:
        """Return the leave-one-out accuracy of each k on the rows that are scored."""
        right = np.empty((len(ks), len(self.labels)), bool)
        for rows, (similarities, neighbors) in self.index.blocks_of_others(max(ks), self.group):
            for i, k in enumerate(ks):
                shares = self.vote_on(Neighbors(similarities[:, :k], neighbors[:, :k]))
                right[i, rows] = shares.argmax(axis=1) == self.labels[rows]
        scored = slice(None) if self.real is None else self.real
        return [KTrial(k, 100.0 * float(np.mean(right[i, scored]))) for i, k in enumerate(ks)]


def fit_knn(
    train_features: FloatArray,
    train_labels: IntArray,
    classes: int,
    *,
    k: int | Sequence[int] | None = None,
    vote: str = "softmax",
    temperature: float = DEFAULT_TEMPERATURE,
    index: str | NeighborIndex = "auto",
    sample_weight: FloatArray | None = None,
    real: BoolArray | None = None,
    group: IntArray | None = None,
) -> NeighborVotes:
    """Index training rows and, where there is a choice, choose k by leave-one-out on them.

    Parameters are those of :class:`NeighborVotes`, and:

    Parameters
    ----------
    train_features : float32 array of shape (n, d)
        Unit rows.
    train_labels : int array of shape (n,)
    k : int, sequence of int, or None
        As for ``NeighborVotes.with_k``.
    index : str or NeighborIndex
        The index of the training rows, or the kind of it.
    sample_weight : float32 array of shape (n,), optional
        How much each row's vote counts.
    """
    alike = sample_weight is None or bool((sample_weight == 1).all())
    weight = None if alike else np.asarray(sample_weight, dtype=np.float32)
    searched = NeighborIndex(train_features, index) if isinstance(index, str) else index
    return NeighborVotes(searched, train_labels, classes, 1, vote, temperature, (), weight, real, group).with_k(k)


def choose_text_share(votes: NeighborVotes, text_votes: FloatArray) -> float:
    """Return the share of text in ``(1 − share) · votes + share · text`` that leave-one-out on the rows prefers.

    Parameters
    ----------
    votes : NeighborVotes
    text_votes : float32 array of shape (n, c)
        Zero-shot probabilities of the indexed rows.

    Returns
    -------
    float
        One of 0, 0.1 … 1; the smallest of equals. With a single row of each class no other can vote for it, and the
        share is the accuracy of the text alone.
    """
    n = len(votes.labels)
    scored = np.ones(n, bool) if votes.real is None else votes.real
    labels = votes.labels[scored]
    text_right = text_votes[scored].argmax(axis=1) == labels
    if n < 2 or np.unique(labels, return_counts=True)[1].max() == 1:
        return round(float(text_right.mean()), 1)
    shares = votes.leave_one_out_shares(min(votes.k, n - 1))[scored]
    grid = [step / 10 for step in range(11)]
    right = [float(np.mean(((1 - a) * shares + a * text_votes[scored]).argmax(axis=1) == labels)) for a in grid]
    return grid[int(np.argmax(right))]


def vote_shares(
    neighbors: Neighbors,
    labels: IntArray,
    classes: int,
    vote: str,
    temperature: float = DEFAULT_TEMPERATURE,
    row_weight: FloatArray | None = None,
) -> FloatArray:
    """Return each class's share of the neighbours' votes, shape (n, c), rows summing to one.

    Parameters
    ----------
    neighbors : Neighbors
        Similarities and rows of shape (n, k); a row of −1 (an approximate index that found too few) has no vote.
    labels : int array
        Labels of the indexed rows.
    row_weight : float32 array, optional
        How much each indexed row's vote counts.
    """
    similarities, rows = neighbors
    weights = np.ones_like(similarities) if vote == "uniform" else _softmax_weights(similarities, temperature)
    if row_weight is not None:
        weights = weights * row_weight[rows]
    weights = np.where(rows < 0, 0, weights)
    votes = np.zeros((len(rows), classes), np.float32)
    np.add.at(votes, (np.arange(len(rows))[:, None], labels[rows]), weights)
    total = np.maximum(votes.sum(axis=1, keepdims=True), np.finfo(np.float32).tiny)
    votes /= total
    return votes


def _softmax_weights(similarities: FloatArray, temperature: float) -> FloatArray:
    scaled = (similarities - similarities[:, :1]) / np.float32(temperature)
    np.exp(scaled, out=scaled)
    return scaled
