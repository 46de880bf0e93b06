"""The shape of each genus, in units of its body: x points ahead, y up, a body is about one long."""

from __future__ import annotations

from typing import NamedTuple


class Shape(NamedTuple):
    """Outline of a genus.

    Half length and half depth of the body, how upright it sits (degrees), the head's radius, the neck's length beyond
    the body, then bill, tail, wing and legs; ``size`` is its share of the picture's side.
    """

    length: float
    depth: float
    upright: float
    head: float
    neck: float
    bill: str
    bill_length: float
    bill_depth: float
    tail: str
    tail_length: float
    tail_width: float
    wing: float
    legs: float
    size: float
    size_word: str
    place: str = "any"


SHAPES = {
    "Finch": Shape(0.42, 0.27, 28, 0.205, 0.0, "cone", 0.20, 0.21, "notched", 0.36, 0.10, 0.95, 0.13, 0.50, "small"),
    "Warbler": Shape(0.41, 0.225, 24, 0.175, 0.0, "thin", 0.17, 0.045, "square", 0.36, 0.09, 0.95, 0.17, 0.48, "small"),
    "Thrush": Shape(
        0.45, 0.255, 40, 0.165, 0.02, "straight", 0.18, 0.07, "square", 0.40, 0.12, 1.0, 0.27, 0.52, "medium"
    ),
    "Wren": Shape(0.36, 0.27, 12, 0.185, 0.0, "curved", 0.22, 0.05, "cocked", 0.30, 0.10, 0.8, 0.17, 0.44, "tiny"),
    "Swallow": Shape(0.42, 0.19, 18, 0.165, 0.0, "tiny", 0.08, 0.06, "forked", 0.62, 0.16, 1.5, 0.06, 0.50, "slender"),
    "Sandpiper": Shape(
        0.42, 0.215, 14, 0.14, 0.13, "straight", 0.42, 0.045, "short", 0.16, 0.12, 1.0, 0.42, 0.48, "leggy"
    ),
    "Heron": Shape(0.44, 0.21, 34, 0.115, 0.52, "straight", 0.36, 0.075, "short", 0.18, 0.13, 1.0, 0.56, 0.44, "tall"),
    "Duck": Shape(
        0.52, 0.235, 2, 0.175, 0.14, "flat", 0.22, 0.09, "short", 0.20, 0.15, 0.85, 0.0, 0.50, "plump", "water"
    ),
    "Gull": Shape(0.50, 0.225, 10, 0.165, 0.06, "hooked", 0.21, 0.075, "square", 0.24, 0.13, 1.3, 0.24, 0.50, "large"),
    "Woodpecker": Shape(
        0.42, 0.205, 62, 0.175, 0.02, "straight", 0.25, 0.075, "pointed", 0.40, 0.13, 0.95, 0.08, 0.50, "upright"
    ),
}

BILLS = {
    "cone": "short conical bill",
    "thin": "thin pointed bill",
    "straight": "long straight bill",
    "curved": "thin curved bill",
    "tiny": "tiny bill",
    "flat": "broad flat bill",
    "hooked": "strong hooked bill",
}
TAILS = {
    "notched": "notched tail",
    "square": "square tail",
    "cocked": "cocked tail",
    "forked": "deeply forked tail",
    "short": "short tail",
    "pointed": "pointed tail",
}
