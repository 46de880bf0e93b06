"""Nearest neighbours by cosine similarity. The only importer of faiss."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from flip.arrays import FloatArray, IntArray
from flip.errors import ConfigError, DataError, FeatureMismatchError

#: Above this many indexed rows ``auto`` takes an approximate index.
FLAT_LIMIT = 1_000_000


class Neighbors(NamedTuple):
    """The nearest rows of each query, most similar first: cosine (n, k) float32 and row numbers (n, k) int64."""

    similarities: FloatArray
    rows: IntArray


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

    def __init__(self, features: FloatArray, kind: str = "auto", *, gpu: bool = False) -> None:
        import faiss

        if len(features) == 0:
            raise DataError("no training photo to compare with; add photos to the train split")
        self.features = np.ascontiguousarray(features, dtype=np.float32)
        self.kind = ("flat" if len(features) <= FLAT_LIMIT else "ivf") if kind == "auto" else kind
        index = self._empty()
        if gpu and self.kind != "hnsw" and getattr(faiss, "get_num_gpus", lambda: 0)():
            index = faiss.index_cpu_to_all_gpus(index)
        if not index.is_trained:
            index.train(self.features)
        index.add(self.features)
        self._index = index

    def _empty(self) -> Any:
        import faiss

        n, d = self.features.shape
        if self.kind == "flat":
            return faiss.IndexFlatIP(d)
        if self.kind == "hnsw":
            graph = faiss.IndexHNSWFlat(d, 32, faiss.METRIC_INNER_PRODUCT)
            graph.hnsw.efConstruction, graph.hnsw.efSearch = 200, 128
            return graph
        cells = max(1, min(4 * int(n**0.5), n // 39))
        inverted = faiss.IndexIVFFlat(faiss.IndexFlatIP(d), d, cells, faiss.METRIC_INNER_PRODUCT)
        inverted.nprobe = max(1, cells // 16)
        return inverted

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
        similarities, rows = self._index.search(np.ascontiguousarray(queries, dtype=np.float32), k)
        return Neighbors(similarities, rows)

    def search_others(self, k: int, group: IntArray | None = None) -> Neighbors:
        """Return the ``k`` nearest *other* rows of each row of the index.

        Parameters
        ----------
        k : int
        group : int array of shape (n,), optional
            Rows of the same number are not others; where too few rows are left the last ones are −1.
        """
        if group is not None:
            return self._search_other_groups(k, group)
        similarities, rows = self.search(self.features, min(k + 1, len(self)))
        own = rows == np.arange(len(self))[:, None]  # (n, k + 1)
        # Among exact copies the row itself may not be returned; then the last neighbour is the one too many.
        own[~own.any(axis=1), -1] = True
        return Neighbors(similarities[~own].reshape(len(self), -1), rows[~own].reshape(len(self), -1))

    def _search_other_groups(self, k: int, group: IntArray) -> Neighbors:
        largest = int(np.unique(group, return_counts=True)[1].max())
        similarities, rows = self.search(self.features, min(k + largest, len(self)))
        own = group[rows] == group[:, None]  # (n, k + largest)
        # A stable sort moves rows of the own group behind all others, which keep their order.
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
