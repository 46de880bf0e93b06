"""Paired comparison of runs: differences with intervals, and McNemar's test, on the photos that the runs share."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from flip.arrays import BoolArray
from flip.errors import ConfigError
from flip.metrics import paired_interval
from flip.report.rows import ScoredRun, read_runs, require_same_photos
from flip.results import Run

#: A difference is called significant where Holm's p-value is below this.
LEVEL = 0.05


@dataclass(frozen=True)
class Comparison:
    """Two runs on the same photos; accuracies are percentages, differences are points (run − against).

    Attributes
    ----------
    run, against : str
        Names of the two runs.
    n : int
        Photos that both could read.
    top1, against_top1, difference : float
    ci95 : (float, float)
        95 % interval of the difference.
    only_run, only_against : int
        Photos that only the one, or only the other, named rightly.
    p : float
        McNemar's exact two-sided test of these two counts.
    p_holm : float
        ``p``, corrected for the number of comparisons made together (Holm, Scandinavian Journal of Statistics 1979).
    """

    run: str
    against: str
    n: int
    top1: float
    against_top1: float
    difference: float
    ci95: tuple[float, float]
    only_run: int
    only_against: int
    p: float
    p_holm: float

    @property
    def significant(self) -> bool:
        """Whether Holm's p-value is below 0.05."""
        return self.p_holm < LEVEL

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON holds."""
        return {**asdict(self), "significant": self.significant}


def compare(runs: Sequence[Run], pairs: Literal["first", "all"] = "first") -> list[Comparison]:
    """Compare runs photo by photo.

    Parameters
    ----------
    runs : sequence of Run
        Two or more, of the same test photos.
    pairs : {"first", "all"}
        Each run against the first, or each against every run before it.

    Raises
    ------
    ConfigError
        If there are fewer than two runs.
    DataError
        If a run's rows cannot be read, or the runs scored different photos or labels.
    """
    if len(runs) < 2:
        raise ConfigError(f"{len(runs)} run cannot be compared; pass two or more folders that --run wrote")
    scored = read_runs(runs)
    require_same_photos(scored)
    return compare_scored(scored, pairs)


def compare_scored(scored: Sequence[ScoredRun], pairs: Literal["first", "all"] = "first") -> list[Comparison]:
    """Compare runs whose rows are read and are of the same photos; see :func:`compare`."""
    earlier = [range(min(i, 1)) if pairs == "first" else range(i) for i in range(len(scored))]
    chosen = [(scored[i], scored[j]) for i in range(len(scored)) for j in earlier[i]]
    tables = [paired(run, against) for run, against in chosen]
    tests = [mcnemar(a, b) for a, b in tables]
    adjusted = holm(tests)
    return [
        _comparison(run.name, against.name, a, b, p, p_holm)
        for (run, against), (a, b), p, p_holm in zip(chosen, tables, tests, adjusted, strict=True)
    ]


def paired(run: ScoredRun, against: ScoredRun) -> tuple[BoolArray, BoolArray]:
    """Return whether each run named each photo rightly, shapes (n,), for the n photos that both could read."""
    # A photo that a manifest lists twice is two rows: the first goes with the first.
    waiting: defaultdict[str, list[bool]] = defaultdict(list)
    for photo in against.readable:
        waiting[photo.path].append(photo.correct)
    both = [(photo.correct, waiting[photo.path].pop(0)) for photo in run.readable if waiting[photo.path]]
    table = np.array(both, dtype=bool).reshape(-1, 2)  # (n, 2)
    return table[:, 0], table[:, 1]


def mcnemar(correct_a: BoolArray, correct_b: BoolArray) -> float:
    """Exact two-sided p-value of McNemar's test (Psychometrika 1947): the binomial test of the discordant pairs.

    Parameters
    ----------
    correct_a, correct_b : bool arrays of shape (n,)
    """
    from scipy.stats import binomtest

    only_a, only_b = int((correct_a & ~correct_b).sum()), int((correct_b & ~correct_a).sum())
    return float(binomtest(only_a, only_a + only_b, 0.5).pvalue) if only_a + only_b else 1.0


def holm(p: Sequence[float]) -> list[float]:
    """Return p-values corrected by Holm's step-down method, in the order given."""
    adjusted, largest = [0.0] * len(p), 0.0
    for rank, i in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        largest = max(largest, min(1.0, (len(p) - rank) * p[i]))
        adjusted[i] = largest
    return adjusted


def _comparison(run: str, against: str, a: BoolArray, b: BoolArray, p: float, p_holm: float) -> Comparison:
    difference, low, high = paired_interval(a, b)
    return Comparison(
        run=run,
        against=against,
        n=len(a),
        top1=100.0 * float(a.mean()) if len(a) else float("nan"),
        against_top1=100.0 * float(b.mean()) if len(b) else float("nan"),
        difference=difference,
        ci95=(low, high),
        only_run=int((a & ~b).sum()),
        only_against=int((b & ~a).sum()),
        p=p,
        p_holm=p_holm,
    )


def few_shot_curves(runs: Sequence[Run]) -> dict[str, list[dict[str, Any]]]:
    """Return each run's few-shot rows by its name; a run of all training photos gives the one row ``all``.

    Raises
    ------
    ConfigError
        If no run has few-shot numbers.
    """
    from flip.report.rows import run_names

    curves: dict[str, list[dict[str, Any]]] = {}
    for name, run in zip(run_names([run.folder for run in runs]), runs, strict=True):
        whole = {"shots": "all", "top1": run.evaluation.top1, "ci95": list(run.evaluation.ci95), "seeds": 1}
        curves[name] = list(run.evaluation.details.get("shots") or [whole])
    if not any("shots" in run.evaluation.details for run in runs):
        raise ConfigError("none of these runs was made with --shots, so there is no few-shot curve to draw")
    return curves
