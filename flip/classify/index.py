"""Nearest neighbours by cosine similarity, exactly or through an approximate index."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from flip.arrays import FloatArray, IntArray
from flip.classify.approximate import BLOCK, ApproximateIndex, IndexFile
from flip.errors import ConfigError, DataError, FeatureMismatchError

#: Up to this many comparisons (rows × queries) of one search ``auto`` is exact: among a million rows, building an
#: index and searching it takes less time from about here on. Counted, not timed, so that every machine answers alike.
EXACT_COMPARISONS = 4_000_000_000


class Neighbors(NamedTuple):
    """The nearest rows of each query, most similar first: cosine (n, k) float32 and row numbers (n, k) int64."""

    similarities: FloatArray
    rows: IntArray


class NeighborIndex:
    """Finds the nearest of the rows it was built on.

    Parameters
    ----------
    features : float32 array of shape (n, d)
        Unit rows, which are searched where they are and not copied.
    kind : {"auto", "flat", "ivf", "hnsw"}
        ``flat`` compares with every row and is exact. ``auto`` does so too, up to ``EXACT_COMPARISONS`` of one search;
        a larger one builds or reads an ``ivf`` index first.
    gpu : bool
        Compare with every row on the GPU, when this faiss and this machine have one.
    recall : float
        Share of the true neighbours that an approximate index is tuned to find.
    seed : int
        Of the rows on which it is tuned and measured.
    saved : IndexFile, optional
        Where an approximate index is kept between runs.

    Raises
    ------
    DataError
        If there is no row.
    """

    def __init__(
        self,
        features: FloatArray,
        kind: str = "auto",
        *,
        gpu: bool = False,
        recall: float = 0.95,
        seed: int = 0,
        saved: IndexFile | None = None,
    ) -> None:
        if len(features) == 0:
            raise DataError("no training photo to compare with; add photos to the train split")
        self.features = np.ascontiguousarray(features, dtype=np.float32)
        self._asked, self._recall, self._seed, self._saved = kind, recall, seed, saved
        self._on_gpu = _gpu_index(self.features) if gpu and kind in ("auto", "flat") else None

    @property
    def kind(self) -> str:
        """Kind of index used so far: "flat" (exact), "ivf" or "hnsw"."""
        return self._asked if self._asked != "auto" else "ivf" if "_approximate" in self.__dict__ else "flat"

    @cached_property
    def _approximate(self) -> ApproximateIndex:
        kind = "ivf" if self._asked == "auto" else self._asked
        return ApproximateIndex(self.features, kind, target=self._recall, seed=self._seed, saved=self._saved)

    def _is_exact(self, queries: int) -> bool:
        many = len(self) * queries > EXACT_COMPARISONS and self._on_gpu is None
        return self._asked == "flat" or (self._asked == "auto" and not many)

    def __len__(self) -> int:
        return len(self.features)

    def search(self, queries: FloatArray, k: int) -> Neighbors:
        """Return the ``k`` nearest rows of each of n queries.

        Parameters
        ----------
        queries : float32 array of shape (n, d)
        k : int

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
        return self._search(queries, k, len(queries))

    def _search(self, queries: FloatArray, k: int, total: int) -> Neighbors:
        """Search for some of ``total`` queries."""
        import faiss

        queries = np.ascontiguousarray(queries, dtype=np.float32)
        if not self._is_exact(total):
            return Neighbors(*self._approximate.search(queries, k))
        if self._on_gpu is not None:
            return Neighbors(*self._on_gpu.search(queries, k))
        return Neighbors(*faiss.knn(queries, self.features, k, metric=faiss.METRIC_INNER_PRODUCT))

    def search_others(self, k: int, group: IntArray | None = None, rows: IntArray | None = None) -> Neighbors:
        """Return the ``k`` nearest *other* rows of each row of the index.

        Parameters
        ----------
        k : int
        group : int array of shape (n,), optional
            Rows of the same number are not others; where too few rows are left the last ones are −1.
        rows : int array of shape (m,), optional
            Only the neighbours of these rows.
        """
        if rows is not None:
            own = np.arange(len(self)) if group is None else group
            largest = int(np.unique(own, return_counts=True)[1].max())
            found = self._search(self.features[rows], min(k + largest, len(self)), len(rows))
            return _others(found, own, rows, k)
        blocks = [found for _, found in self.blocks_of_others(k, group)]
        return Neighbors(np.concatenate([b.similarities for b in blocks]), np.concatenate([b.rows for b in blocks]))

    def blocks_of_others(self, k: int, group: IntArray | None = None) -> Iterator[tuple[slice, Neighbors]]:
        """Yield (rows, neighbours) of :meth:`search_others`, one block of rows at a time."""
        own = np.arange(len(self)) if group is None else group
        largest = 1 if group is None else int(np.unique(group, return_counts=True)[1].max())
        for start in range(0, len(self), BLOCK):
            here = slice(start, start + BLOCK)
            found = self._search(self.features[here], min(k + largest, len(self)), len(self))
            yield here, _others(found, own, here, k) if group is not None else _not_themselves(found, start)

    def recall(self, k: int) -> float:
        """Return the share of the true nearest others that was found, as measured on a sample of the own rows.

        The least of the searches made so far, of ``k`` neighbours where there was none; 1 where all were exact.
        """
        if self.kind == "flat":
            return 1.0
        reached = self._approximate.reached
        return self._approximate.recall_of(k) if reached is None else reached


def _not_themselves(found: Neighbors, start: int) -> Neighbors:
    """Return neighbours (b, k) of the rows from ``start`` on without the rows themselves, of b × (k + 1) found."""
    similarities, rows = found
    own = rows == np.arange(start, start + len(rows))[:, None]
    # Among exact copies the row itself may not be returned; then the last neighbour is the one too many.
    own[~own.any(axis=1), -1] = True
    return Neighbors(similarities[~own].reshape(len(rows), -1), rows[~own].reshape(len(rows), -1))


def _others(found: Neighbors, group: IntArray, here: slice | IntArray, k: int) -> Neighbors:
    """Return the k nearest of the rows found that are of other groups, −1 where there are too few."""
    similarities, rows = found
    own = (rows < 0) | (group[rows] == group[here][:, None])  # (b, k + largest)
    # A stable sort moves rows of the own group behind all others, which keep their order.
    order = np.argsort(own, axis=1, kind="stable")[:, :k]
    rows = np.where(np.take_along_axis(own, order, axis=1), -1, np.take_along_axis(rows, order, axis=1))
    return Neighbors(np.take_along_axis(similarities, order, axis=1), rows)


def _gpu_index(features: FloatArray) -> Any:
    """Return an exact index on the GPU, or None without one, or where it cannot hold the rows."""
    import faiss

    if not getattr(faiss, "get_num_gpus", lambda: 0)():
        return None
    with contextlib.suppress(RuntimeError):
        index = faiss.index_cpu_to_all_gpus(faiss.IndexFlatIP(features.shape[1]))
        index.add(features)
        return index
    return None
