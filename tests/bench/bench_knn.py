"""Nearest neighbours at any size against bare FAISS and scikit-learn, and the whole of ``flip knn``.

    python tests/bench/bench_knn.py [--rows 1000 10000 100000 1000000] [--queries 2000] [--folder DIR]

Search times alternate in one process: bare FAISS (IndexFlatIP on the same array), flip's exact search, flip's
approximate search at recall 0.95 once it is built, and scikit-learn (up to 100,000 rows). The whole process is
``flip knn -k 10`` on a table of synthetic embeddings, with its peak memory.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import tempfile
import time
from pathlib import Path

from tests.bench.large_table import WIDTH, clustered, write_large_table
from tests.bench.processes import flip_command, load, measured

K = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1000, 10_000, 100_000, 1_000_000])
    parser.add_argument("--queries", type=int, default=2000)
    parser.add_argument("--folder", type=Path, help="Keep the tables here. [default: a temporary folder]")
    parser.add_argument("--whole-only", action="store_true", help="Only the whole process.")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with tempfile.TemporaryDirectory() as temporary:
        print(json.dumps(measure(options, options.folder or Path(temporary)), indent=1))


def measure(options: argparse.Namespace, folder: Path) -> list[dict[str, object]]:
    """Return a row for each size."""
    rows: list[dict[str, object]] = []
    for n in options.rows:
        row: dict[str, object] = {"rows": n, "queries": options.queries, "load": load()}
        row |= whole_process(n, options.queries, folder)
        if not options.whole_only:
            row |= searches(n, options.queries)
        print(row, flush=True)
        rows.append(row)
    return rows


def whole_process(n: int, queries: int, folder: Path) -> dict[str, object]:
    """Return seconds and peak memory of ``flip knn``, and of FAISS alone reading nothing."""
    table = folder / f"table-{n}-{queries}"
    if not (table / "embeddings.parquet").exists():
        write_large_table(table, n, queries)
    done = measured(flip_command("knn", "--data", table, "-k", K, "--format", "json", "-q"), cache=folder / "cache")
    features = (n + queries) * WIDTH * 4 / 1e6
    return {
        "knn_s": done.seconds,
        "knn_peak_mb": done.peak_mb,
        "features_fp32_mb": round(features),
        "knn_mb_beyond_features": round(done.peak_mb - features),
    }


def searches(n: int, queries: int) -> dict[str, object]:
    """Return the seconds of each kind of search, in turns, and those of building what is searched."""
    import faiss

    from flip.classify.index import NeighborIndex

    rows, asked = clustered(n, 0)[0], clustered(queries, 1)[0]
    bare = faiss.IndexFlatIP(WIDTH)
    bare.add(rows)
    exact, approximate = NeighborIndex(rows, "flat"), NeighborIndex(rows, "ivf")
    start = time.perf_counter()
    approximate.search(asked[:1], K)
    built = time.perf_counter() - start
    kinds = {
        "faiss": lambda: bare.search(asked, K),
        "exact": lambda: exact.search(asked, K),
        "approximate": lambda: approximate.search(asked, K),
    }
    if n <= 100_000:
        from sklearn.neighbors import NearestNeighbors

        theirs = NearestNeighbors(n_neighbors=K, metric="cosine", algorithm="brute").fit(rows)
        kinds["sklearn"] = lambda: theirs.kneighbors(asked)
    times: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(3):
        for name, search in kinds.items():
            start = time.perf_counter()
            search()
            times[name].append(time.perf_counter() - start)
    row: dict[str, object] = {f"{name}_s": round(statistics.median(t), 4) for name, t in times.items()}
    ratios = [ours / theirs for ours, theirs in zip(times["exact"], times["faiss"], strict=True)]
    gains = [ours / theirs for ours, theirs in zip(times["exact"], times["approximate"], strict=True)]
    row |= {"exact/faiss": round(statistics.median(ratios), 3), "exact/approximate": round(statistics.median(gains), 1)}
    return row | {"approximate_built_s": round(built, 1), "recall": round(approximate.recall(K), 4)}


if __name__ == "__main__":
    main()
