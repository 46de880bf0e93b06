"""The bounded minimum against SciPy's L-BFGS-B on convex problems, and where a bound holds."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize

from flip.arrays import Array, Float64Array
from flip.classify.minimise import minimise


def _quadratic(p: int, seed: int) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(p + 3, p))
    return root.T @ root, rng.normal(size=p) * 3


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("p", [1, 3, 40])
def test_equals_scipy_on_bounded_quadratics(p: int, seed: int) -> None:
    matrix, linear = _quadratic(p, seed)
    lower, upper = np.where(np.arange(p) % 2, -np.inf, 0.0), np.where(np.arange(p) % 3, np.inf, 0.5)

    def objective(x: Float64Array) -> tuple[float, Array]:
        return float(0.5 * x @ matrix @ x - linear @ x), matrix @ x - linear

    start = np.full(p, 0.25)
    bounds = list(zip(lower, upper, strict=True))
    expected = minimize(objective, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"ftol": 1e-14})
    found, value = minimise(objective, start, lower, upper, tolerance=1e-12)
    assert value == pytest.approx(expected.fun, abs=1e-6)
    np.testing.assert_allclose(found, expected.x, atol=2e-3)
    assert (found >= lower).all()
    assert (found <= upper).all()


def test_a_start_at_the_minimum_stays() -> None:
    free = np.full(2, np.inf)
    found, value = minimise(lambda x: (float(x @ x), 2 * x), np.zeros(2), -free, free)
    assert value == 0.0
    assert not found.any()


def test_logistic_loss_equals_scipy() -> None:
    rng = np.random.default_rng(1)
    rows, truth = rng.normal(size=(200, 5)), rng.integers(0, 2, 200) * 2.0 - 1.0

    def objective(x: Float64Array) -> tuple[float, Array]:
        margin = truth * (rows @ x)
        slope = -(truth / (1 + np.exp(margin))) @ rows / len(rows)
        return float(np.logaddexp(0, -margin).mean()), slope

    free = np.full(5, np.inf)
    expected = minimize(objective, np.zeros(5), jac=True, method="L-BFGS-B", options={"ftol": 1e-14})
    _, value = minimise(objective, np.zeros(5), -free, free, tolerance=1e-10)
    assert value == pytest.approx(expected.fun, abs=1e-8)
