"""A bounded minimum of a smooth convex function by L-BFGS, in NumPy alone.

SciPy's L-BFGS-B solves the same problems, but ``import scipy.optimize`` takes longer than a whole answer from stored
embeddings; the long fits of the heads use it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import numpy as np

from flip.arrays import Array, Float64Array

#: Curvature pairs that are kept, iterations, and halvings of one step, at most.
PAIRS, MOST_ITERATIONS, MOST_HALVINGS = 10, 500, 15
#: Share of the decrease that the slope promises which a step must reach (Armijo's condition).
SUFFICIENT = 1e-4

Objective = Callable[[Float64Array], tuple[float, Array]]
#: Steps (s) and the changes of the gradient along them (y).
Curvature = deque[tuple[Float64Array, Float64Array]]


def minimise(
    objective: Objective, start: Float64Array, lower: Array, upper: Array, tolerance: float = 1e-7
) -> tuple[Float64Array, float]:
    """Return the parameters (p,) between ``lower`` and ``upper`` with the least value, and that value.

    L-BFGS (Nocedal & Wright, Numerical Optimization, algorithm 7.4) on the variables that are not held at a bound,
    with steps projected onto the bounds (Bertsekas, SIAM Journal on Control and Optimization 1982).

    Parameters
    ----------
    objective : callable
        From parameters (p,) to a value and its gradient (p,). Smooth and convex.
    start : float64 array of shape (p,)
        Inside the bounds.
    lower, upper : float arrays of shape (p,)
        May be infinite.
    tolerance : float
        Stop when two iterations in a row lower the value by less than this share of it, or of one if it is smaller.
    """
    x = start.astype(np.float64)
    value, slope = objective(x)
    curvature: Curvature = deque(maxlen=PAIRS)
    small = 0
    for _ in range(MOST_ITERATIONS):
        held = ((x <= lower) & (slope > 0)) | ((x >= upper) & (slope < 0))
        step = _search(
            objective, x, value, _direction(np.where(held, 0.0, slope), held, curvature), slope, lower, upper
        )
        if step is None:
            break
        new, new_value, new_slope = step
        s, y = new - x, new_slope - slope
        if s @ y > 1e-12 * (y @ y):
            curvature.append((s, y))
        small = small + 1 if value - new_value <= tolerance * max(abs(value), 1.0) else 0
        x, value, slope = new, new_value, new_slope
        if small == 2:
            break
    return x, value


def _direction(slope: Float64Array, held: Array, curvature: Curvature) -> Float64Array:
    """Return the direction of descent (p,), zero where a variable is held: the two-loop recursion of L-BFGS."""
    if not curvature:
        return -slope / max(1.0, float(np.abs(slope).sum()))
    q, scales = slope.copy(), []
    for s, y in reversed(curvature):
        scales.append((s @ q) / (s @ y))
        q -= scales[-1] * y
    s, y = curvature[-1]
    q *= (s @ y) / (y @ y)
    for (s, y), scale in zip(curvature, reversed(scales), strict=True):
        q += (scale - (y @ q) / (s @ y)) * s
    q[held] = 0.0
    # With some variables held the recursion may point uphill: then the slope itself.
    return -q if q @ slope > 0 else -slope


def _search(
    objective: Objective, x: Float64Array, value: float, direction: Array, slope: Array, lower: Array, upper: Array
) -> tuple[Float64Array, float, Array] | None:
    """Return the first point of x + d, x + d/2, … inside the bounds that descends enough, its value and its slope."""
    for halving in range(MOST_HALVINGS):
        new = np.clip(x + direction * 0.5**halving, lower, upper)
        new_value, new_slope = objective(new)
        if new_value <= value + SUFFICIENT * float(slope @ (new - x)):
            return new, new_value, new_slope
    return None
