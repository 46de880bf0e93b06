"""The few-shot protocol."""

from __future__ import annotations

import numpy as np
import pytest

from flip.data.few_shot import short_classes
from flip.studies.few_shot import Draw, DrawScore, draws, few_shot_rows

LABELS = np.repeat([0, 1, 2], [5, 3, 2])


def test_draws_are_balanced_repeatable_and_nested():
    planned = list(draws(LABELS, [1, 2, None], 3))
    assert [(d.shots, d.seed) for d in planned] == [(1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (2, 2), (None, 0)]
    for one, two in zip(planned[:3], planned[3:6], strict=True):
        assert list(np.bincount(LABELS[one.rows])) == [1, 1, 1]
        assert list(np.bincount(LABELS[two.rows])) == [2, 2, 2]
        assert set(one.rows) <= set(two.rows)
    assert list(planned[-1].rows) == list(range(10))
    again = list(draws(LABELS, [1, 2, None], 3))
    assert all((a.rows == b.rows).all() for a, b in zip(planned, again, strict=True))


def test_as_many_shots_as_the_largest_class_has_are_one_draw():
    planned = list(draws(LABELS, [4, 5, 9, None], 2))
    assert [(d.shots, d.seed, len(d.rows)) for d in planned] == [
        (4, 0, 9),
        (4, 1, 9),
        (5, 0, 10),
        (9, 0, 10),
        (None, 0, 10),
    ]


def test_rows_are_means_with_students_interval():
    rows = np.arange(3)
    scored = [
        DrawScore(Draw(1, seed, rows), score, head)
        for seed, score, head in [(0, 70.0, "tip"), (1, 80.0, "gda"), (2, 90.0, "gda")]
    ]
    one, everything = few_shot_rows([*scored, DrawScore(Draw(None, 0, rows), 85.0, "gda")])
    assert (one["shots"], one["top1"], one["seeds"], one["head"]) == (1, 80.0, 3, "gda, tip")
    # t(0.975, 2) = 4.3027, standard error 10 / sqrt(3)
    assert one["ci95"] == pytest.approx([80 - 24.841, 100], abs=1e-2), "no accuracy is above 100 %"
    assert everything == {"shots": "all", "top1": 85.0, "ci95": None, "seeds": 1, "head": "gda"}


def test_classes_that_are_short_are_counted():
    assert [short_classes(LABELS, k) for k in (2, 3, 5, 6)] == [0, 1, 2, 3]
