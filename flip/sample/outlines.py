"""Outlines of drawn birds: closed curves, discs and hulls, in whatever units they are given."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PIL import Image, ImageDraw

from flip.sample.species import RGB

Point = tuple[float, float]


def egg(length: float, depth: float) -> list[Point]:
    """Return a body: fuller ahead, drawn out behind."""
    points = []
    for i in range(48):
        t = 2 * math.pi * i / 48
        points.append((length * math.cos(t), depth * math.sin(t) * (1 + 0.20 * math.cos(t))))
    return points


def smooth(points: Sequence[Point], steps: int = 6) -> list[Point]:
    """Return a closed Catmull-Rom curve through points."""
    n, curve = len(points), []
    for i in range(n):
        a, b, c, d = (points[(i + k) % n] for k in (-1, 0, 1, 2))
        for s in range(steps):
            t = s / steps
            curve.append(tuple(
                0.5 * (2 * b[k] + (c[k] - a[k]) * t + (2 * a[k] - 5 * b[k] + 4 * c[k] - d[k]) * t**2
                       + (3 * b[k] - a[k] - 3 * c[k] + d[k]) * t**3)
                for k in (0, 1)
            ))  # fmt: skip
    return [(x, y) for x, y in curve]


def bezier(a: Point, b: Point, c: Point, d: Point, t: float) -> Point:
    """Return the point at ``t``, 0 to 1, of the cubic Bézier curve from ``a`` to ``d`` that ``b`` and ``c`` pull."""
    weights = ((1 - t) ** 3, 3 * (1 - t) ** 2 * t, 3 * (1 - t) * t**2, t**3)
    x, y = (sum(w * p[k] for w, p in zip(weights, (a, b, c, d), strict=True)) for k in (0, 1))
    return x, y


def disc(pen: ImageDraw.ImageDraw, centre: Point, r: float, fill: int | RGB) -> None:
    """Fill a disc of radius ``r``."""
    pen.ellipse((centre[0] - r, centre[1] - r, centre[0] + r, centre[1] + r), fill=fill)


def hull(pen: ImageDraw.ImageDraw, a: Point, ra: float, b: Point, rb: float) -> None:
    """Fill two discs, of radius ``ra`` round ``a`` and ``rb`` round ``b``, and what lies between them."""
    disc(pen, a, ra, 255)
    angle = math.atan2(b[1] - a[1], b[0] - a[0]) + math.pi / 2
    dx, dy = math.cos(angle), math.sin(angle)
    pen.polygon(
        [
            (a[0] + dx * ra, a[1] + dy * ra), (b[0] + dx * rb, b[1] + dy * rb),
            (b[0] - dx * rb, b[1] - dy * rb), (a[0] - dx * ra, a[1] - dy * ra),
        ],
        fill=255,
    )  # fmt: skip


def around(mask: Image.Image, margin: int) -> tuple[int, int, int, int]:
    """Return the box (left, top, right, bottom) of what a mask shows, ``margin`` pixels wider, within the picture."""
    left, top, right, bottom = mask.getbbox() or (0, 0, *mask.size)
    return (
        max(0, left - margin),
        max(0, top - margin),
        min(mask.width, right + margin),
        min(mask.height, bottom + margin),
    )
