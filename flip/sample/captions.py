"""Captions in the manner of people who describe a bird photo: each names some of its marks."""

from __future__ import annotations

import random

from flip.sample.shapes import BILLS, SHAPES, TAILS
from flip.sample.species import Species

CAPTIONS_PER_PHOTO = 5
_COUNTS = {1: "a white wing bar", 2: "two white wing bars"}


def captions(species: Species, chance: random.Random, count: int = CAPTIONS_PER_PHOTO) -> tuple[str, ...]:
    """Return sentences that each name two to four marks of a bird.

    Parameters
    ----------
    species : Species
    chance : random.Random
    count : int
    """
    return tuple(_sentence(species, chance) for _ in range(count))


def _sentence(species: Species, chance: random.Random) -> str:
    phrases = _phrases(species)
    chosen = chance.sample(phrases, chance.choice((2, 3, 3, 4)))
    listed = f"{', '.join(chosen[:-1])} and {chosen[-1]}"
    noun = chance.choice(("bird", "bird", species.genus.lower()))
    shape = SHAPES[species.genus]
    opening = chance.choice(
        (
            f"this {shape.size_word} {noun} has",
            f"{_a(species.marks.back)} {noun} with",
            f"this {noun} has",
            f"a {shape.size_word} {noun} with",
            f"the {species.marks.back} {noun} has",
        )
    )
    return f"{opening} {listed}."


def _phrases(species: Species) -> list[str]:
    marks, shape = species.marks, SHAPES[species.genus]
    breast = f"{_a(marks.breast)} breast"
    phrases = [
        f"{_a(marks.crown)} crown",
        f"{_a(marks.back)} back",
        f"{breast} with dark spots" if marks.spotted else breast,
        f"{marks.wing} wings",
        f"a {BILLS[shape.bill]}",
        f"a {TAILS[shape.tail]}",
    ]
    if shape.legs:
        phrases.append(f"{'long ' if shape.legs > 0.3 else ''}{marks.legs} legs")
    if marks.wing_bars:
        phrases.append(_COUNTS[marks.wing_bars])
    if marks.eye != "plain":
        phrases.append({"ring": "a white eye ring", "mask": "a black mask through the eye"}[marks.eye])
    return phrases


def _a(colour: str) -> str:
    return f"{'an' if colour[0] in 'aeiou' else 'a'} {colour}"
