"""k-nearest-neighbour classification by cosine similarity. The only importer of faiss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from flip.config import AUTO_K, DEFAULT_TEMPERATURE
from flip.errors import ConfigError, DataError, FeatureMismatchError

FloatMatrix = npt.NDArray[np.float32]
IntMatrix = npt.NDArray[np.int64]
Vote = Literal["uniform", "softmax"]

#: Above this many indexed rows ``auto`` takes an approximate index.
FLAT_LIMIT = 1_000_000


class Neighbors(NamedTuple):
    """The nearest rows of each query, most similar first: cosine (n, k) float32 and row numbers (n, k) int64."""

    similarities: FloatMatrix
    rows: IntMatrix


class KTrial(NamedTuple):
    """One k of a sweep and its leave-one-out accuracy on the training photos, in percent."""

    k: int
    train_top1: float


class NeighborIndex:
    """Finds the nearest of the rows it was built on.

    Parameters
    ----------
    features : float32 array of shape (n, d)
        Unit rows.
    kind : {"auto", "flat", "ivf", "hnsw"}
        ``flat`` compares with every row and is exact.
    gpu : bool
        Search on the GPU, when this faiss and this machine have one (flat and ivf).

    Raises
    ------
    DataError
        If there is no row.
    """

    def __init__(self, features: FloatMatrix, kind: str = "auto", *, gpu: bool = False) -> None:
        import faiss

        if len(features) == 0:
            raise DataError("no training photo to compare with; add photos to the train split")
        self.features = np.ascontiguousarray(features, dtype=np.float32)
        self.kind = ("flat" if len(features) <= FLAT_LIMIT else "ivf") if kind == "auto" else kind
        d = features.shape[1]
        if self.kind == "flat":
            index: Any = faiss.IndexFlatIP(d)
        elif self.kind == "hnsw":
            index = faiss.IndexHNSWFlat(d, 32, faiss.METRIC_INNER_PRODUCT)
            index.hnsw.efConstruction, index.hnsw.efSearch = 200, 128
        else:
            cells = max(1, min(4 * int(len(features) ** 0.5), len(features) // 39))
            index = faiss.IndexIVFFlat(faiss.IndexFlatIP(d), d, cells, faiss.METRIC_INNER_PRODUCT)
            index.nprobe = max(1, cells // 16)
        if gpu and self.kind != "hnsw" and getattr(faiss, "get_num_gpus", lambda: 0)():
            index = faiss.index_cpu_to_all_gpus(index)
        if not index.is_trained:
            index.train(self.features)
        index.add(self.features)
        self._index = index

    def __len__(self) -> int:
        return len(self.features)

    def search(self, queries: FloatMatrix, k: int) -> Neighbors:
        """Return the ``k`` nearest rows of each query, shape (n, k).

        Raises
        ------
        ConfigError
            If ``k`` exceeds the number of rows.
        FeatureMismatchError
            If the queries have another width.
        """
        if k > len(self):
            raise ConfigError(f"k={k} exceeds the {len(self)} images in the index; pass -k {len(self)} or fewer")
        if queries.shape[1] != self.features.shape[1]:
            raise FeatureMismatchError(
                f"queries have width {queries.shape[1]}, the index {self.features.shape[1]}; "
                "both must come from one model"
            )
        similarities, rows = self._index.search(np.ascontiguousarray(queries, dtype=np.float32), k)
        return Neighbors(similarities, rows)

    def search_others(self, k: int, group: IntMatrix | None = None) -> Neighbors:
        """Return the ``k`` nearest *other* rows of each row of the index, shape (n, k).

        With ``group``, int array of shape (n,), rows of the same number are not others; where too few rows are left
        the last ones are −1.
        """
        if group is not None:
            return self._search_other_groups(k, group)
        similarities, rows = self.search(self.features, min(k + 1, len(self)))
        own = rows == np.arange(len(self))[:, None]
        # Among exact copies the row itself may not be returned; then the last neighbour is the one too many.
        own[~own.any(axis=1), -1] = True
        return Neighbors(similarities[~own].reshape(len(self), -1), rows[~own].reshape(len(self), -1))

    def _search_other_groups(self, k: int, group: IntMatrix) -> Neighbors:
        kin = int(np.unique(group, return_counts=True)[1].max())
        similarities, rows = self.search(self.features, min(k + kin, len(self)))
        own = group[rows] == group[:, None]
        order = np.argsort(own, axis=1, kind="stable")[:, :k]
        rows = np.where(np.take_along_axis(own, order, axis=1), -1, np.take_along_axis(rows, order, axis=1))
        return Neighbors(np.take_along_axis(similarities, order, axis=1), rows)

    def recall(self, k: int, *, sample: int = 1000, seed: int = 0) -> float:
        """Return the share of true ``k`` nearest neighbours that this index finds, on a sample of its own rows."""
        if self.kind == "flat":
            return 1.0
        chosen = np.random.default_rng(seed).permutation(len(self))[:sample]
        found = self.search(self.features[chosen], k).rows
        exact = NeighborIndex(self.features, "flat").search(self.features[chosen], k).rows
        return float(np.mean([len(np.intersect1d(a, b)) / k for a, b in zip(found, exact, strict=True)]))


@dataclass(frozen=True)
class KnnClassifier:
    """Neighbours that vote.

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
        Rows that leave-one-out scores; generated photos vote but are not scored.
    group : int array of shape (n,) or None
        Leave-one-out leaves out what has the row's own number with it: what was made from a photo does not name it.
    """

    index: NeighborIndex
    labels: IntMatrix
    classes: int
    k: int
    vote: Vote = "softmax"
    temperature: float = DEFAULT_TEMPERATURE
    trials: tuple[KTrial, ...] = ()
    row_weight: FloatMatrix | None = None
    real: npt.NDArray[np.bool_] | None = None
    group: IntMatrix | None = None

    def predict_proba(self, queries: FloatMatrix) -> FloatMatrix:
        """Return each class's share of the votes, shape (n, c)."""
        return self.vote_on(self.neighbors(queries))

    def neighbors(self, queries: FloatMatrix) -> Neighbors:
        """Return the k nearest training rows of each query."""
        return self.index.search(queries, self.k)

    def vote_on(self, neighbors: Neighbors) -> FloatMatrix:
        """Return each class's share of the votes of these neighbours, shape (n, c)."""
        return vote_shares(neighbors, self.labels, self.classes, self.vote, self.temperature, self.row_weight)

    def leave_one_out_shares(self, k: int) -> FloatMatrix:
        """Return the vote shares of each indexed row's ``k`` nearest other rows, shape (n, c)."""
        return self.vote_on(self.index.search_others(k, self.group))


def fit_knn(
    train_features: FloatMatrix,
    train_labels: IntMatrix,
    classes: int,
    *,
    k: int | Sequence[int] | None = None,
    vote: Vote = "softmax",
    temperature: float = DEFAULT_TEMPERATURE,
    index: str = "auto",
    gpu: bool = False,
    sample_weight: FloatMatrix | None = None,
    real: npt.NDArray[np.bool_] | None = None,
    group: IntMatrix | None = None,
) -> KnnClassifier:
    """Index the training photos and, where there is a choice, choose k by leave-one-out on them.

    Parameters
    ----------
    train_features : float32 array of shape (n, d)
        Unit rows.
    train_labels : int array of shape (n,)
    classes : int
        Number of classes c.
    k : int, sequence of int, or None
        One k is taken as it is; of several the one with the best leave-one-out accuracy, the smallest of equals. None
        means ``flip.config.AUTO_K``, as far as there are photos.
    sample_weight : float32 array of shape (n,), optional
        How much each photo's vote counts.
    real : bool array of shape (n,), optional
        Photos that leave-one-out scores; False for generated ones, which vote only.
    group : int array of shape (n,), optional
        A photo and what was made from it have one number, and are left out together.

    Raises
    ------
    ConfigError
        If k exceeds the number of training photos (for a choice: what leave-one-out can use).
    """
    neighbor_index = NeighborIndex(train_features, index, gpu=gpu)
    votes_alike = sample_weight is None or bool((sample_weight == 1).all())
    row_weight = None if votes_alike else np.asarray(sample_weight, dtype=np.float32)
    n = len(train_labels)
    untuned = KnnClassifier(neighbor_index, train_labels, classes, 1, vote, temperature, (), row_weight, real, group)
    if isinstance(k, int) or (k is not None and len(k) == 1):
        chosen = k if isinstance(k, int) else k[0]
        if chosen > n:
            raise ConfigError(f"k={chosen} exceeds the {n} images in the index; pass -k {n} or fewer")
        return replace(untuned, k=chosen)
    ks = [value for value in AUTO_K if value < n] if k is None else list(k)
    if not ks:
        return untuned
    if max(ks) >= n:
        raise ConfigError(f"k={max(ks)} exceeds the {n - 1} other images in the index; pass -k up to {n - 1}")
    trials = _leave_one_out(untuned, ks)
    best = max(trials, key=lambda trial: (trial.train_top1, -trial.k))
    return replace(untuned, k=best.k, trials=tuple(trials))


def choose_text_share(classifier: KnnClassifier, text_votes: FloatMatrix) -> float:
    """Return the share of text in ``(1 − share) · votes + share · text`` that leave-one-out on the rows prefers.

    Parameters
    ----------
    classifier : KnnClassifier
    text_votes : float32 array of shape (n, c)
        Zero-shot probabilities of the indexed rows.

    Returns
    -------
    float
        One of 0, 0.1 … 1; the smallest of equals. With a single row of each class no other can vote for it, and the
        share is the accuracy of the text alone.
    """
    n = len(classifier.labels)
    scored = np.ones(n, bool) if classifier.real is None else classifier.real
    labels = classifier.labels[scored]
    text_right = text_votes[scored].argmax(axis=1) == labels
    if n < 2 or np.unique(labels, return_counts=True)[1].max() == 1:
        return round(float(text_right.mean()), 1)
    shares = classifier.leave_one_out_shares(min(classifier.k, n - 1))[scored]
    grid = [step / 10 for step in range(11)]
    right = [float(np.mean(((1 - a) * shares + a * text_votes[scored]).argmax(axis=1) == labels)) for a in grid]
    return grid[int(np.argmax(right))]


def vote_shares(
    neighbors: Neighbors,
    labels: IntMatrix,
    classes: int,
    vote: Vote,
    temperature: float = DEFAULT_TEMPERATURE,
    row_weight: FloatMatrix | None = None,
) -> FloatMatrix:
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


def _softmax_weights(similarities: FloatMatrix, temperature: float) -> FloatMatrix:
    scaled = (similarities - similarities[:, :1]) / np.float32(temperature)
    np.exp(scaled, out=scaled)
    return scaled


def _leave_one_out(classifier: KnnClassifier, ks: Sequence[int]) -> list[KTrial]:
    similarities, rows = classifier.index.search_others(max(ks), classifier.group)
    scored = slice(None) if classifier.real is None else classifier.real
    trials = []
    for k in ks:
        shares = classifier.vote_on(Neighbors(similarities[:, :k], rows[:, :k]))
        right = shares.argmax(axis=1) == classifier.labels
        trials.append(KTrial(k, 100.0 * float(np.mean(right[scored]))))
    return trials
