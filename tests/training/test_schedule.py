from __future__ import annotations

import pytest

from flip.training.schedule import lr_factor


def test_a_cosine_rises_then_falls_to_nothing():
    factors = [lr_factor(step, 100, 0.1, then="cosine") for step in range(101)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[9] == factors[10] == 1.0
    assert factors[55] == pytest.approx(0.5)
    assert factors[100] == pytest.approx(0.0, abs=1e-9)
    assert lr_factor(0, 10, 0.0, then="cosine") == 1.0


def test_a_constant_rises_then_stays():
    factors = [lr_factor(step, 40, 0.1, then="constant") for step in range(40)]
    assert factors[:4] == [0.25, 0.5, 0.75, 1.0]
    assert set(factors[4:]) == {1.0}
    assert lr_factor(0, 10, 0.0, then="constant") == 1.0
    # A rise of less than a step is none.
    assert lr_factor(0, 4, 0.1, then="constant") == 1.0
