"""Runs that were never made: rows given, everything else derived."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flip.results import Neighbor, Prediction, Run, calibration_report, score_predictions, write_run

#: path, truth, probabilities by class; an error text instead of probabilities for an unreadable photo.
Row = tuple[str, str, "dict[str, float] | str"]


def make_run(
    folder: Path,
    rows: Sequence[Row],
    *,
    neighbors: Callable[[str], Sequence[Neighbor]] | None = None,
    config: dict[str, Any] | None = None,
    details: dict[str, Any] | None = None,
    command: str = "knn",
    data: str = "photos",
) -> Run:
    """Write a run folder as ``--run`` does."""
    names = sorted({name for _, truth, p in rows for name in ((truth, *p) if isinstance(p, dict) else (truth,))})
    index = {name: i for i, name in enumerate(names)}
    read = [(truth, p) for _, truth, p in rows if isinstance(p, dict)]
    scores = np.zeros((len(read), len(names)), np.float32)
    for i, (_, p) in enumerate(read):
        for name, value in p.items():
            scores[i, index[name]] = value
    labels = np.array([index[truth] for truth, _ in read])
    evaluation = score_predictions(
        scores,
        labels,
        names,
        command=command,
        data=data,
        model="tiny",
        split="test",
        protocol={"k": 3, "vote": "softmax"},
        unreadable=len(rows) - len(read),
        seconds=1.5,
        details={**calibration_report(scores, labels, names), **(details or {})},
    )
    predictions = [
        Prediction(path, error=p) if isinstance(p, str) else _prediction(path, truth, p, neighbors)
        for path, truth, p in rows
    ]
    return write_run(folder, evaluation, predictions, {"data": data, "k": "3", **(config or {})}, "d" * 16, "m" * 16)


def _prediction(
    path: str, truth: str, p: dict[str, float], neighbors: Callable[[str], Sequence[Neighbor]] | None
) -> Prediction:
    ranked = tuple(sorted(p.items(), key=lambda item: -item[1]))
    return Prediction(path, *ranked[0], ranked, truth, None, tuple(neighbors(path)) if neighbors else None)


@pytest.fixture
def run_of(tmp_path: Path) -> Callable[..., Run]:
    """Write a run below the test's folder: ``run_of("name", rows, ...)``."""
    return lambda name, rows, **more: make_run(tmp_path / name, rows, **more)
