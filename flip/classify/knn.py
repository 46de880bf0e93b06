"""k-nearest-neighbour classification by cosine similarity. The only importer of faiss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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

    def search_others(self, k: int) -> Neighbors:
        """Return the ``k`` nearest *other* rows of each row of the index, shape (n, k)."""
        similarities, rows = self.search(self.features, min(k + 1, len(self)))
        own = rows == np.arange(len(self))[:, None]
        # Among exact copies the row itself may not be returned; then the last neighbour is the one too many.
        own[~own.any(axis=1), -1] = True
        return Neighbors(similarities[~own].reshape(len(self), -1), rows[~own].reshape(len(self), -1))

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
    """

    index: NeighborIndex
    labels: IntMatrix
    classes: int
    k: int
    vote: Vote = "softmax"
    temperature: float = DEFAULT_TEMPERATURE
    trials: tuple[KTrial, ...] = ()

    def predict_proba(self, queries: FloatMatrix) -> FloatMatrix:
        """Return each class's share of the votes, shape (n, c)."""
        return self.vote_on(self.neighbors(queries))

    def neighbors(self, queries: FloatMatrix) -> Neighbors:
        """Return the k nearest training rows of each query."""
        return self.index.search(queries, self.k)

    def vote_on(self, neighbors: Neighbors) -> FloatMatrix:
        """Return each class's share of the votes of these neighbours, shape (n, c)."""
        return vote_shares(neighbors, self.labels, self.classes, self.vote, self.temperature)


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

    Raises
    ------
    ConfigError
        If k exceeds the number of training photos (for a choice: what leave-one-out can use).
    """
    neighbor_index = NeighborIndex(train_features, index, gpu=gpu)
    n = len(train_labels)
    if isinstance(k, int) or (k is not None and len(k) == 1):
        chosen = k if isinstance(k, int) else k[0]
        if chosen > n:
            raise ConfigError(f"k={chosen} exceeds the {n} images in the index; pass -k {n} or fewer")
        return KnnClassifier(neighbor_index, train_labels, classes, chosen, vote, temperature)
    ks = [value for value in AUTO_K if value < n] if k is None else list(k)
    if not ks:
        return KnnClassifier(neighbor_index, train_labels, classes, 1, vote, temperature)
    if max(ks) >= n:
        raise ConfigError(f"k={max(ks)} exceeds the {n - 1} other images in the index; pass -k up to {n - 1}")
    trials = _leave_one_out(neighbor_index, train_labels, classes, ks, vote, temperature)
    best = max(trials, key=lambda trial: (trial.train_top1, -trial.k))
    return KnnClassifier(neighbor_index, train_labels, classes, best.k, vote, temperature, tuple(trials))


def vote_shares(
    neighbors: Neighbors, labels: IntMatrix, classes: int, vote: Vote, temperature: float = DEFAULT_TEMPERATURE
) -> FloatMatrix:
    """Return each class's share of the neighbours' votes, shape (n, c), rows summing to one.

    Parameters
    ----------
    neighbors : Neighbors
        Similarities and rows of shape (n, k); a row of −1 (an approximate index that found too few) has no vote.
    labels : int array
        Labels of the indexed rows.
    """
    similarities, rows = neighbors
    weights = np.ones_like(similarities) if vote == "uniform" else _softmax_weights(similarities, temperature)
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


def _leave_one_out(
    index: NeighborIndex, labels: IntMatrix, classes: int, ks: Sequence[int], vote: Vote, temperature: float
) -> list[KTrial]:
    similarities, rows = index.search_others(max(ks))
    trials = []
    for k in ks:
        shares = vote_shares(Neighbors(similarities[:, :k], rows[:, :k]), labels, classes, vote, temperature)
        trials.append(KTrial(k, 100.0 * float(np.mean(shares.argmax(axis=1) == labels))))
    return trials
