"""Species as birders tell them apart: a shape, and field marks on it."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import NamedTuple

RGB = tuple[int, int, int]

COLOURS: dict[str, RGB] = {
    "red": (196, 38, 36),
    "orange": (232, 128, 32),
    "yellow": (240, 208, 52),
    "green": (84, 146, 62),
    "olive": (118, 120, 62),
    "blue": (52, 98, 190),
    "brown": (112, 78, 48),
    "rufous": (162, 82, 42),
    "sandy": (206, 178, 128),
    "gray": (132, 138, 146),
    "black": (38, 38, 44),
    "white": (242, 240, 234),
    "pink": (226, 140, 140),
}

#: The middle word of a name says what the back is like.
PLUMAGES = {
    "Wood": "brown",
    "Marsh": "olive",
    "Stone": "gray",
    "Night": "black",
    "Lake": "blue",
    "Leaf": "green",
    "Dune": "sandy",
    "Clay": "rufous",
}
_CROWNS = ("red", "orange", "yellow", "blue", "black", "white", "rufous")
_BREASTS = ("white", "yellow", "orange", "red", "gray", "sandy")
_WINGS = ("brown", "black", "gray", "blue", "rufous", "green")
_LEGS = ("black", "yellow", "pink", "orange")

#: Body shapes, which the drawing knows by these names.
GENERA = ("Finch", "Warbler", "Thrush", "Wren", "Swallow", "Sandpiper", "Heron", "Duck", "Gull", "Woodpecker")


class Marks(NamedTuple):
    """What tells a species of a genus from the others; colours are keys of ``COLOURS``."""

    crown: str
    back: str
    breast: str
    wing: str
    legs: str
    wing_bars: int = 0
    eye: str = "plain"  # plain, ring, or mask
    spotted: bool = False


@dataclass(frozen=True)
class Species:
    """A drawn species: its name as a person says it, its genus (the shape) and its field marks."""

    name: str
    genus: str
    marks: Marks


def _guide(genus: str, *rows: tuple[str, Marks]) -> tuple[Species, ...]:
    return tuple(Species(f"{name} {genus}", genus, marks) for name, marks in rows)


#: The 24 species of ``--data sample``: in each genus neighbours differ by one or two marks.
SPECIES: tuple[Species, ...] = (
    *_guide(
        "Finch",
        ("Red-crowned Marsh", Marks("red", "olive", "yellow", "brown", "pink", 2)),
        ("Yellow-crowned Marsh", Marks("yellow", "olive", "red", "brown", "pink", 2)),
        ("Spotted Wood", Marks("rufous", "brown", "white", "brown", "pink", 0, "plain", True)),
        ("Masked Wood", Marks("rufous", "brown", "white", "brown", "pink", 0, "mask")),
    ),
    *_guide(
        "Warbler",
        ("Yellow-breasted Stone", Marks("black", "gray", "yellow", "black", "black", 2)),
        ("Spectacled Stone", Marks("black", "gray", "yellow", "black", "black", 0, "ring")),
        ("Orange-crowned Leaf", Marks("orange", "green", "white", "gray", "black")),
        ("Bar-winged Leaf", Marks("yellow", "green", "white", "gray", "black", 2)),
    ),
    *_guide(
        "Thrush",
        ("Orange-breasted Night", Marks("black", "black", "orange", "black", "yellow")),
        ("White-crowned Night", Marks("white", "black", "orange", "black", "yellow")),
        ("Spotted Clay", Marks("rufous", "rufous", "white", "rufous", "pink", 0, "ring", True)),
        ("Gray-breasted Clay", Marks("rufous", "rufous", "gray", "rufous", "pink", 0, "ring")),
    ),
    *_guide(
        "Swallow",
        ("Red-breasted Lake", Marks("blue", "blue", "red", "black", "black")),
        ("Red-crowned Lake", Marks("red", "blue", "white", "black", "black")),
        ("White-crowned Wood", Marks("white", "brown", "white", "brown", "black")),
        ("Blue-winged Wood", Marks("black", "brown", "white", "blue", "black")),
    ),
    *_guide(
        "Sandpiper",
        ("Spotted Dune", Marks("rufous", "sandy", "white", "brown", "yellow", 0, "plain", True)),
        ("Masked Dune", Marks("rufous", "sandy", "white", "brown", "yellow", 0, "mask")),
        ("Black-crowned Stone", Marks("black", "gray", "white", "gray", "orange")),
        ("Red-breasted Stone", Marks("gray", "gray", "red", "gray", "orange")),
    ),
    *_guide(
        "Duck",
        ("Blue-crowned Clay", Marks("blue", "rufous", "gray", "black", "orange", 1)),
        ("White-crowned Clay", Marks("white", "rufous", "gray", "black", "orange", 1)),
        ("Green-winged Stone", Marks("rufous", "gray", "sandy", "green", "orange")),
        ("Masked Night", Marks("rufous", "black", "sandy", "green", "orange", 0, "mask")),
    ),
)


def other_species(count: int, seed: int) -> tuple[Species, ...]:
    """Return species that are none of ``SPECIES``: neither by their marks nor by their names.

    Parameters
    ----------
    count : int
        How many; each genus gets its share.
    seed : int
    """
    chance = random.Random(seed)
    names = {species.name for species in SPECIES}
    combinations = {(species.genus, species.marks) for species in SPECIES}
    found: list[Species] = []
    while len(found) < count:
        genus = GENERA[len(found) % len(GENERA)]
        plumage = chance.choice(tuple(PLUMAGES))
        marks = _draw_marks(PLUMAGES[plumage], chance)
        name = f"{chance.choice(_telling(marks))} {plumage} {genus}"
        if name not in names and (genus, marks) not in combinations:
            names.add(name)
            combinations.add((genus, marks))
            found.append(Species(name, genus, marks))
    return tuple(found)


def _draw_marks(back: str, chance: random.Random) -> Marks:
    return Marks(
        crown=chance.choice((*_CROWNS, back)),
        back=back,
        breast=chance.choice([colour for colour in _BREASTS if colour != back]),
        wing=chance.choice((*_WINGS, back, back)),
        legs=chance.choice(_LEGS),
        wing_bars=chance.choice((0, 0, 1, 2)),
        eye=chance.choice(("plain", "plain", "ring", "mask")),
        spotted=chance.random() < 0.25,
    )


def _telling(marks: Marks) -> list[str]:
    """Return the first words that would fit a bird with these marks."""
    words = [f"{marks.breast.title()}-breasted"]
    if marks.crown != marks.back:
        words.append(f"{marks.crown.title()}-crowned")
    if marks.wing != marks.back:
        words.append(f"{marks.wing.title()}-winged")
    if marks.wing_bars:
        words.append("Bar-winged")
    if marks.spotted:
        words.append("Spotted")
    words += {"plain": [], "ring": ["Spectacled"], "mask": ["Masked"]}[marks.eye]
    return words
