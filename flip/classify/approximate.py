"""Approximate nearest neighbours: a small index proposes rows, and the features themselves rank them."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from flip.arrays import FloatArray, IntArray
from flip.errors import ConfigError
from flip.files import written_aside

log = logging.getLogger(__name__)

#: Rows that are added or searched for together.
BLOCK = 1 << 14

#: Rows that are searched for when a search is tuned, and again as many on which its recall is then measured.
SAMPLE = 256

#: With fewer rows there is nothing to compress.
_LEAST_COMPRESSED = 10_000

#: Candidates for each neighbour, tried in turn where looking at more of the index finds no more of them.
_CANDIDATES = (4, 16, 64)

#: Two ways of computing a cosine in float32 differ by less.
_ROUNDING = 3e-6

#: Far from the distance of two keys.
_ODD = 0x1E3779B97F4A7C15

#: An index of which this share of the rows is gone, or to which as many are to be added, is built again.
_STALE = 0.3


class IndexFile(NamedTuple):
    """File of a saved index, and a function that returns the int64 keys (n,) its rows are identified by."""

    file: Path
    keys: Callable[[], IntArray]


class ApproximateIndex:
    """An index of compressed rows that is tuned on a sample of them to find a share of the true neighbours.

    Rows of width 8 or more are found through cells (IVF) of product-quantised rows (Jégou et al., TPAMI 2011; the scan
    of André et al., TPAMI 2019), or through a graph (HNSW, Malkov and Yashunin, TPAMI 2018) of rows in half precision.

    Parameters
    ----------
    features : float32 array of shape (n, d)
        Unit rows.
    kind : {"ivf", "hnsw"}
    target : float
        Share of the true neighbours that is to be found.
    seed : int
        Of the sample.
    saved : IndexFile, optional
        Read from there, with new rows added, or built and kept there.
    """

    def __init__(
        self, features: FloatArray, kind: str, *, target: float = 0.95, seed: int = 0, saved: IndexFile | None = None
    ) -> None:
        self.features, self.kind, self.target = features, kind, target
        self._keys = np.arange(len(features), dtype=np.int64) if saved is None else _distinct(saved.keys())
        self._order = np.argsort(self._keys, kind="stable")
        self._sorted_keys = self._keys[self._order]
        # Of the keys, not the rows: the same photos in another order are tuned alike.
        self._sample = self._order[np.random.default_rng(seed).permutation(len(features))[: 2 * SAMPLE]]
        self._tuned: dict[int, _Search] = {}
        self._reached: dict[int, float] = {}
        self._index = self._opened(None if saved is None else saved.file)

    def search(self, queries: FloatArray, k: int) -> tuple[FloatArray, IntArray]:
        """Return cosine (n, k) and row numbers (n, k), −1 where too few were found, most similar first."""
        if k not in self._tuned:
            self._tune(k)
        return self._search(queries, k, self._tuned[k])

    def recall_of(self, k: int) -> float:
        """Return the share of the true ``k`` nearest rows that is found, measured on rows it was not tuned on."""
        if k not in self._reached:
            self._tune(k)
        return self._reached[k]

    @property
    def reached(self) -> float | None:
        """The least recall of the searches that were made; None before the first."""
        return min(self._reached.values(), default=None)

    def _tune(self, k: int) -> None:
        """Choose the least search that finds the target's share, with some to spare for what the sample does not show.

        A neighbour counts as found when the row that stands in its place is as near.
        """
        half = (len(self._sample) + 1) // 2
        parts = self._sample[:half], self._sample[-half:]
        # A row is its own nearest, which is not to be counted.
        m = min(k + 1, len(self.features))
        last = [np.min(_exact(self.features[part], self.features, m)[0], axis=1, keepdims=True) for part in parts]

        def recall(i: int, search: _Search) -> float:
            found = np.sort(self._search(self.features[parts[i]], m, search)[0], axis=1)[:, : m - 1]
            return float(np.mean(found >= last[i] - _ROUNDING)) if m > 1 else 1.0

        goal = self.target + 0.2 * (1 - self.target)
        for search in self._searches(m):
            if recall(0, search) >= goal:
                break
        self._tuned[k], self._reached[k] = search, recall(1, search)
        log.info(
            "approximate index (%s, %s): recall %.3f of the %d nearest, %g was asked for",
            *(self.kind, search, self._reached[k], k, self.target),
        )

    def _searches(self, k: int) -> Iterator[_Search]:
        n, inner = len(self.features), _inner(self._index)
        widest = inner.nlist if self.kind == "ivf" else n
        for factor in _CANDIDATES:
            candidates = min(n, max(factor * k, 10 * factor))
            width = 1 if self.kind == "ivf" else candidates
            while width < 2 * widest:
                yield _Search(min(width, widest), candidates)
                width *= 2

    def _search(self, queries: FloatArray, k: int, search: _Search) -> tuple[FloatArray, IntArray]:
        faiss = _library()
        inner = _inner(self._index)
        if self.kind == "ivf":
            inner.nprobe = search.width
        else:
            inner.hnsw.efSearch = search.width
        n, m = len(queries), search.candidates
        similarities, rows = np.empty((n, k), np.float32), np.empty((n, k), np.int64)
        for start in range(0, n, BLOCK):
            here = slice(start, start + BLOCK)
            block = np.ascontiguousarray(queries[here], np.float32)
            # FAISS marks missing neighbours with −1; its ranking needs them at the end of each row.
            candidates = -np.sort(-self._rows_of(self._index.search(block, m)[1]), axis=1)  # (b, m)
            arrays = block, self.features, candidates, similarities[here], rows[here]
            x, y, subset, values, found = map(faiss.swig_ptr, arrays)
            d, total = self.features.shape[1], len(self.features)
            faiss.knn_inner_products_by_idx(x, y, subset, d, len(block), total, m, k, values, found, m)
        similarities[rows < 0] = -1
        return similarities, rows

    def _rows_of(self, keys: IntArray) -> IntArray:
        """Return the row of each key, −1 for rows that are gone."""
        where = np.searchsorted(self._sorted_keys, keys).clip(max=len(self._keys) - 1)
        rows: IntArray = np.where(self._sorted_keys[where] == keys, self._order[where], -1)
        return rows

    def _opened(self, file: Path | None) -> Any:
        """Return the index of the file, or a new one, with every row in it."""
        index = None if file is None else self._read(file, mapped=True)
        if index is not None and len(self._missing(index)):
            index = self._read(file, mapped=False) if file else None
        if index is None:
            index = _trained(self.features, self.kind)
        new = self._missing(index)
        for start in range(0, len(new), BLOCK):
            block = new[start : start + BLOCK]
            index.add_with_ids(np.ascontiguousarray(self.features[block]), self._keys[block])
        if len(new) and file is not None:
            _write(index, file)
        return index

    def _missing(self, index: Any) -> IntArray:
        """Return the rows that an index does not have."""
        return np.flatnonzero(~np.isin(self._keys, _ids(index)))

    def _read(self, file: Path, *, mapped: bool) -> Any:
        """Return the index of a file, or None where there is none that fits these rows.

        Mapped into memory, an index is read as it is searched, and cannot be added to.
        """
        faiss = _library()
        try:
            index = faiss.read_index(str(file), faiss.IO_FLAG_MMAP_IFC if mapped else 0)
            own = np.isin(_ids(index), self._keys)
        except (RuntimeError, AttributeError):
            return None
        least = (1 - _STALE) * max(len(own), len(self._keys))
        return index if index.d == self.features.shape[1] and own.sum() >= least else None


def _library() -> Any:
    """Return faiss, whose published types lack much of what it has."""
    import faiss

    return faiss


def _write(index: Any, file: Path) -> None:
    faiss = _library()
    # Without a place for it, the next run builds it again.
    with contextlib.suppress(ConfigError, RuntimeError), written_aside(file) as aside:
        faiss.write_index(index, str(aside))


class _Search(NamedTuple):
    """Cells that are looked into, or the graph's list of candidates, and candidates that are ranked."""

    width: int
    candidates: int

    def __str__(self) -> str:
        return f"width {self.width}, {self.candidates} candidates"


def _trained(features: FloatArray, kind: str) -> Any:
    """Return an empty index for rows like these."""
    faiss = _library()
    n, d = features.shape
    if kind == "hnsw":
        graph = faiss.IndexHNSWSQ(d, faiss.ScalarQuantizer.QT_fp16, 32, faiss.METRIC_INNER_PRODUCT)
        graph.hnsw.efConstruction = 100
        graph.train(np.ascontiguousarray(features[:1000]))
        return faiss.IndexIDMap(graph)
    parts = next((m for m in range(d // 4, 7, -1) if d % m == 0), 0)
    if n < _LEAST_COMPRESSED or not parts:
        cells = max(1, min(4 * int(n**0.5), n // 39))
        index = faiss.index_factory(d, f"IVF{cells},Flat", faiss.METRIC_INNER_PRODUCT)
    else:
        cells = int(n**0.5)
        index = faiss.index_factory(d, f"IVF{cells},PQ{parts}x4fs", faiss.METRIC_INNER_PRODUCT)
    index.cp.niter, index.cp.spherical = 10, True
    sample = np.random.default_rng(0).permutation(n)[: max(64 * cells, 39)]
    index.train(np.ascontiguousarray(features[np.sort(sample)]))
    return index


def _distinct(keys: IntArray) -> IntArray:
    """Return keys of which equal ones are told apart by their order."""
    order = np.argsort(keys, kind="stable")
    begins = np.concatenate([[True], np.diff(keys[order]) != 0])
    repeats = np.arange(len(keys)) - np.maximum.accumulate(np.where(begins, np.arange(len(keys)), 0))
    if not repeats.any():
        return keys
    distinct = keys.copy()
    distinct[order] = (keys[order] + repeats * _ODD) & np.iinfo(np.int64).max
    return distinct


def _exact(queries: FloatArray, features: FloatArray, k: int) -> tuple[FloatArray, IntArray]:
    faiss = _library()
    similarities, rows = faiss.knn(queries, features, k, metric=faiss.METRIC_INNER_PRODUCT)
    return similarities, rows


def _inner(index: Any) -> Any:
    faiss = _library()
    return faiss.downcast_index(index.index) if isinstance(index, faiss.IndexIDMap) else index


def _ids(index: Any) -> IntArray:
    """Return the keys of the rows of an index."""
    faiss = _library()
    if isinstance(index, faiss.IndexIDMap):
        keys: IntArray = faiss.vector_to_array(index.id_map)
        return keys
    lists = index.invlists
    parts = [faiss.rev_swig_ptr(lists.get_ids(i), lists.list_size(i)) for i in range(lists.nlist) if lists.list_size(i)]
    return np.concatenate([np.zeros(0, np.int64), *parts])
