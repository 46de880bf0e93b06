"""Class names: the order, cleaning over the whole list, folder names."""

from __future__ import annotations

import time

import pytest

from flip.data.classnames import (
    clean_class_names,
    clean_names,
    folder_names,
    label_indices,
    natural_key,
    near_equal_names,
    wordnet_ids,
)

COMPOSED, DECOMPOSED = "caf\u00e9", "cafe\u0301"


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        (["001.Black_footed_Albatross", "002.Laysan_Albatross"], ["Black footed Albatross", "Laysan Albatross"]),
        (["01_wren", "02_gull"], ["wren", "gull"]),
        (["0_wren", "1_gull", "2_owl"], ["wren", "gull", "owl"]),
        (["1. Wren", "2. Gull"], ["Wren", "Gull"]),
        (["001 - Wren", "002 - Gull"], ["Wren", "Gull"]),
        (["n02085620-Chihuahua", "n02085782-Japanese_spaniel"], ["Chihuahua", "Japanese spaniel"]),
        (
            ["00000_Animalia_Chordata_Aves_Passeriformes_Turdidae_Turdus_merula"],
            ["Turdus merula"],
        ),
        # Numbers that are part of a name.
        (["1.5 TSI", "2.0 TDI", "1.4 TSI"], ["1.5 TSI", "2.0 TDI", "1.4 TSI"]),
        (["3.14_pie", "2.72_cake"], ["3.14 pie", "2.72 cake"]),
        (["1.0", "2.0", "3.0"], ["1.0", "2.0", "3.0"]),
        (["737-200", "747-400"], ["737-200", "747-400"]),
        (["2 door", "4 door"], ["2 door", "4 door"]),
        (["2012_Audi", "2013_BMW"], ["2012 Audi", "2013 BMW"]),
        (["50_euros", "100_dollars"], ["50 euros", "100 dollars"]),
        # Only where every class has one, and the rest stays distinct.
        (["001.Wren", "Gull"], ["001.Wren", "Gull"]),
        (["001.Wren", "002.Wren"], ["001.Wren", "002.Wren"]),
        (["001.Wren", "002.wren"], ["001.Wren", "002.wren"]),
        (["001.Wren", "002."], ["001.Wren", "002."]),
        (["n02085620-Wren", "n02085782-Wren"], ["n02085620-Wren", "n02085782-Wren"]),
        # Names that need nothing.
        (
            ["F/A-18", "Ram C/V", "C++", "C#", "tench, Tinca tinca"],
            ["F/A-18", "Ram C/V", "C++", "C#", "tench, Tinca tinca"],
        ),
        ([DECOMPOSED], [COMPOSED]),
        ([], []),
    ],
)
def test_the_whole_list_decides_what_is_cleaned(raw: list[str], clean: list[str]) -> None:
    assert clean_class_names(raw) == tuple(clean)


def test_what_was_done_is_told() -> None:
    assert clean_names(["001.a", "002.b"]).done == "numbers dropped"
    assert clean_names(["n02085620-a"]).done == "WordNet ids dropped"
    assert clean_names(["a_b"]).done == "underscores read as spaces"
    assert clean_names(["a b"]).done == ""


@pytest.mark.parametrize(
    ("names", "ordered"),
    [
        (["10", "9", "2"], ["2", "9", "10"]),
        (["class10", "class9", "class1"], ["class1", "class9", "class10"]),
        (["v1.10", "v1.9"], ["v1.9", "v1.10"]),
        (["b", "B", "a b", "a-b", "ab", "a"], ["B", "a", "a b", "a-b", "ab", "b"]),
        (["a1", "a b", "ab", "a-1"], ["a b", "a-1", "a1", "ab"]),
        (["01", "1", "001"], ["001", "01", "1"]),
        (["1.0", "10.0", "2.0"], ["1.0", "2.0", "10.0"]),
    ],
)
def test_numbers_in_names_are_sorted_as_numbers(names: list[str], ordered: list[str]) -> None:
    assert sorted(names, key=natural_key) == ordered


def test_names_without_numbers_of_different_width_keep_the_plain_order() -> None:
    names = ["001.Black_footed_Albatross", "010.Wren", "100.Gull", "Zebra", "apple", "Äpfel", "a_b", "a.b", "~x", "!"]
    assert sorted(names, key=natural_key) == sorted(names)


def test_one_name_is_one_class_however_its_accents_are_written() -> None:
    assert label_indices([COMPOSED, "a", DECOMPOSED]) == (("a", COMPOSED), [1, 0, 1])


def test_many_names_are_sorted_in_seconds() -> None:
    names = [f"Genus{i % 977} species{i}" for i in range(100_000)]
    start = time.perf_counter()
    label_indices(names)
    clean_class_names(names)
    assert time.perf_counter() - start < 20


@pytest.mark.parametrize(
    ("names", "pairs"),
    [
        (["Red Wren", "red-wren", "Gull"], [("Red Wren", "red-wren")]),
        (["Redwren", "Red_Wren", "RED WREN"], [("Redwren", "Red_Wren"), ("Redwren", "RED WREN")]),
        (["C", "C#", "C++"], []),
        (["Wren", "Wren"], []),
    ],
)
def test_names_that_differ_by_spelling_only(names: list[str], pairs: list[tuple[str, str]]) -> None:
    assert near_equal_names(names) == pairs


def test_bare_wordnet_ids() -> None:
    assert wordnet_ids(["n01440764", "n01443537"])
    assert not wordnet_ids(["n01440764", "wren"])
    assert not wordnet_ids([])


@pytest.mark.parametrize(
    "names",
    [
        ["Ram C/V", "Ram C:V"],
        ["C", "C#", "C++", "C/", "C."],
        ["Wren", "wren", "WREN"],
        ["a/b", "a_b", "a\\b"],
        [COMPOSED, DECOMPOSED],
        [".", "..", "", " "],
        ["x" * 300, "x" * 301],
        ["crane", "crane", "crane"],
        ["con", "NUL", "com1", "aux.txt"],
    ],
)
def test_no_two_classes_share_a_folder(names: list[str]) -> None:
    folders = folder_names(names)
    assert len(folders) == len(names)
    assert len({folder.casefold() for folder in folders}) == len(names)
    for folder in folders:
        assert folder
        assert not set(folder) & set('/\\:*?"<>|')
        assert folder.strip(". ") == folder
        assert len(folder.encode()) < 200


def test_a_folder_is_the_name_where_that_is_possible_and_does_not_depend_on_the_order() -> None:
    names = ["001.Wren", "Ram C/V", "Ram C:V", "wren", "Wren"]
    by_name = dict(zip(names, folder_names(names), strict=True))
    assert by_name["001.Wren"] == "001.Wren"
    assert by_name["Ram C/V"].startswith("Ram C_V-")
    assert dict(zip(names[::-1], folder_names(names[::-1]), strict=True)) == by_name
    assert folder_names(["Ram C/V"]) == ("Ram C_V",)
