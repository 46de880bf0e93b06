"""The drawn birds: the same bytes every time, species apart from each other, a folder that flip reads."""

import io
import json
from collections import Counter
from random import Random

import numpy as np
import pytest
from PIL import Image

from flip.data.open import open_dataset
from flip.errors import ConfigError
from flip.sample.captions import captions
from flip.sample.fieldguide import (
    SIDE,
    FieldGuide,
    draw_photo,
    is_guide,
    sample_guide,
    sample_train_guide,
    write_guide,
)
from flip.sample.shapes import SHAPES
from flip.sample.species import COLOURS, GENERA, SPECIES, Marks, Species, other_species

SMALL = FieldGuide("small", SPECIES[:3], photos=4, train=2)


def pixels(photo):
    return np.asarray(Image.open(io.BytesIO(photo)).convert("RGB")).astype(int)


def test_the_same_bird_has_the_same_bytes_and_another_seed_or_number_another_bird():
    photo, texts = draw_photo(SPECIES[0], 0, 5)
    assert (photo, texts) == draw_photo(SPECIES[0], 0, 5)
    assert draw_photo(SPECIES[0], 0, 6)[0] != photo
    assert draw_photo(SPECIES[0], 1, 5)[0] != photo
    assert Image.open(io.BytesIO(photo)).size == (SIDE, SIDE)


@pytest.mark.parametrize("genus", GENERA)
def test_every_genus_is_drawn_with_the_colours_of_its_marks(genus):
    """A breast of a colour that no background has is seen in the picture, and the spots darken it."""
    marks = Marks("blue", "blue", "red", "blue", "black")
    red = max(
        int(((p[..., 0] > 130) & (p[..., 1] < 90) & (p[..., 2] < 90)).sum())
        for p in (pixels(draw_photo(Species(f"Some {genus}", genus, marks), 0, i)[0]) for i in range(3))
    )
    other = Species(f"Some {genus}", genus, marks._replace(breast="gray"))
    none = max(
        int(((p[..., 0] > 130) & (p[..., 1] < 90) & (p[..., 2] < 90)).sum())
        for p in (pixels(draw_photo(other, 0, i)[0]) for i in range(3))
    )
    assert red > 150 > none


@pytest.mark.parametrize(
    "changed",
    [{"crown": "white"}, {"wing": "green"}, {"wing_bars": 2}, {"eye": "ring"}, {"eye": "mask"}, {"spotted": True}],
)
def test_every_mark_shows(changed):
    base = Species("Some Finch", "Finch", Marks("red", "olive", "yellow", "brown", "pink"))
    with_mark = Species("Some Finch", "Finch", base.marks._replace(**changed))
    difference = np.abs(pixels(draw_photo(base, 0, 1)[0]) - pixels(draw_photo(with_mark, 0, 1)[0])).max(axis=2)
    assert (difference > 30).sum() > 15


def test_the_24_differ_and_each_has_a_kin_that_differs_by_few_marks():
    assert len(SPECIES) == 24
    assert len({s.name for s in SPECIES}) == len({(s.genus, s.marks) for s in SPECIES}) == 24
    for one in SPECIES:
        kin = [s for s in SPECIES if s.genus == one.genus and s is not one]
        assert min(sum(a != b for a, b in zip(one.marks, s.marks, strict=True)) for s in kin) <= 2, one.name


def test_a_name_says_what_is_there():
    words = {
        "Spectacled": lambda m: m.eye == "ring",
        "Masked": lambda m: m.eye == "mask",
        "Spotted": lambda m: m.spotted,
    }
    for species in (*SPECIES, *other_species(100, seed=3)):
        first = species.name.split()[0]
        if first in words:
            assert words[first](species.marks), species
        elif first == "Bar-winged":
            assert species.marks.wing_bars
        else:
            colour, part = first.split("-")
            part = {"crowned": "crown", "breasted": "breast", "winged": "wing"}[part]
            assert getattr(species.marks, part) == colour.lower(), species


def test_the_species_trained_on_are_none_of_the_24():
    others = other_species(400, seed=7)
    assert others == other_species(400, seed=7)
    assert not {s.name for s in others} & {s.name for s in SPECIES}
    assert not {(s.genus, s.marks) for s in others} & {(s.genus, s.marks) for s in SPECIES}
    assert len({s.name for s in others}) == len({(s.genus, s.marks) for s in others}) == 400
    assert set(Counter(s.genus for s in others).values()) == {40}
    assert others == sample_train_guide().species


def test_captions_name_only_marks_that_are_there():
    chance = Random(0)
    for species in SPECIES:
        marks, shape = species.marks, SHAPES[species.genus]
        own = {f"{marks.crown} crown", f"{marks.back} back", f"{marks.breast} breast", f"{marks.wing} wings"}
        for text in captions(species, chance, 30):
            for colour in COLOURS:
                for part in ("crown", "back", "breast", "wings"):
                    if f"{colour} {part}" in text and f"white {part[:-1]} bar" not in text:
                        assert f"{colour} {part}" in own, (species.name, text)
            assert ("spots" in text) <= marks.spotted
            assert ("eye ring" in text) <= (marks.eye == "ring")
            assert ("mask" in text) <= (marks.eye == "mask")
            assert ("legs" in text) <= (shape.legs > 0)
            assert " a olive" not in text
            assert not text.startswith("a o")


def test_a_folder_in_cubs_layout(tmp_path):
    write_guide(SMALL, tmp_path / "birds")
    dataset = open_dataset(tmp_path / "birds")
    assert dataset.layout == "cub"
    assert dataset.classnames == tuple(s.name for s in SMALL.species)
    assert dataset.splits == {"train": 6, "test": 6}
    assert all(len(r.captions) == 5 for r in dataset.records)
    assert dataset.file(dataset.records[0]).read_bytes() == draw_photo(SPECIES[0], 0, 0)[0]
    marks = json.loads((tmp_path / "birds" / "fieldguide.json").read_text())["species"]
    assert marks[SPECIES[0].name]["crown"] == "red"
    assert is_guide(tmp_path / "birds", SMALL)
    assert not is_guide(tmp_path / "birds", FieldGuide("small", SPECIES[:3], photos=4, train=2, seed=1))


def test_a_folder_that_holds_something_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(ConfigError, match="already holds files"):
        write_guide(SMALL, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_an_interrupted_drawing_leaves_no_folder(tmp_path):
    def stop(n):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_guide(SMALL, tmp_path / "birds", progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_the_sample_is_24_species_of_10_and_30():
    guide = sample_guide()
    assert (len(guide.species), guide.photos, guide.train) == (24, 40, 10)
    assert guide.edition() != sample_guide(seed=1).edition()
