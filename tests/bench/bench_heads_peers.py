"""Heads against scikit-learn's own, fitted on the same synthetic features in turns: seconds and accuracy.

    python -m tests.bench.bench_heads_peers [--rows 5975] [--classes 200]

flip's heads choose their strength by cross-validation on the training rows; scikit-learn's are fitted once with their
defaults, so that the comparison is in its favour.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

from flip.classify.classifier import make_head
from flip.features import Features
from tests.bench.large_table import clustered
from tests.bench.processes import load


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=5975)
    parser.add_argument("--classes", type=int, default=200)
    options = parser.parse_args()
    print(json.dumps(measure(options.rows, options.classes), indent=1))


def measure(rows: int = 5975, classes: int = 200) -> list[dict[str, Any]]:
    """Return a row for each head and its peer."""
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    from sklearn.linear_model import LogisticRegression
    from sklearn.svm import SVC

    train, test = (_features(n, seed, classes) for n, seed in ((rows, 0), (2000, 1)))
    peers = {
        "gda": LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto"),
        "linear": LogisticRegression(max_iter=1000, C=100),
        "svm-rbf": SVC(C=10),
    }
    found = []
    for name, peer in peers.items():
        start = time.perf_counter()
        head = make_head(name, text="none").fit(train)
        ours = time.perf_counter()
        peer.fit(train.image_features, train.labels)
        theirs = time.perf_counter() - ours
        found.append(
            {
                "head": name,
                "rows": rows,
                "classes": classes,
                "fit_s": round(ours - start, 2),
                "top1": round(100 * head.score(test), 2),
                "sklearn": type(peer).__name__,
                "sklearn_fit_s": round(theirs, 2),
                "sklearn_top1": round(100 * peer.score(test.image_features, test.labels), 2),
                "load": load(),
            }
        )
    return found


def _features(n: int, seed: int, classes: int) -> Features:
    rows, labels = clustered(n, seed, classes)
    names, none = tuple(f"class {c}" for c in range(classes)), ((),) * n
    paths = tuple(f"{seed}/{i}.jpg" for i in range(n))
    return Features(rows, labels, paths, ("train",) * n, none, (None,) * n, names, names, "synthetic")


if __name__ == "__main__":
    main()
