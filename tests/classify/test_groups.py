"""Ranks above the classes: probabilities summed up the tree, and candidates among the classes."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from flip.classify.groups import Candidates, from_ranks, last_words, read_candidates, read_groups
from flip.errors import DataError

CLASSES = ("Song Sparrow", "Fox Sparrow", "Laysan Albatross")
RAW = ("001.Song_Sparrow", "002.Fox_Sparrow", "003.Laysan_Albatross")

#: Worked by hand: the albatross is the likeliest class of photos 1 and 2, the sparrows together of photos 0 and 1.
PROBABILITIES = np.array([[0.5, 0.3, 0.2], [0.3, 0.3, 0.4], [0.1, 0.2, 0.7], [0.2, 0.5, 0.3]], np.float32)
LABELS = np.array([0, 1, 0, 0])


def write(folder: Path, text: str, name: str = "groups.csv") -> Path:
    file = folder / name
    file.write_text(text, encoding="utf-8")
    return file


def test_accuracy_at_each_rank_is_that_of_the_hand_computed_example():
    species, group = last_words(CLASSES).report(PROBABILITIES, LABELS)
    # Photo 0 is right; 1 is taken for an albatross, 2 too, 3 for the other sparrow.
    assert (species["rank"], species["groups"], species["top1"]) == ("class", 3, 25.0)
    # Sums: sparrows .8, .6, .3, .7, and all four photos are of sparrows.
    assert (group["rank"], group["groups"], group["top1"]) == ("group", 2, 75.0)
    assert species["ci95"][0] < 25 < species["ci95"][1]
    assert species["mean_per_group"] == pytest.approx((100 / 3 + 0) / 2)


def test_probabilities_at_each_rank_sum_to_one_and_are_the_sums_of_their_classes():
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(30), size=50).astype(np.float32)
    names = [f"{i} bird" for i in range(30)]
    pairs = [("family", tuple(f"f{i % 3}" for i in range(30))), ("genus", tuple(f"g{i % 9}" for i in range(30)))]
    groups = from_ranks(pairs, names)
    assert [rank.name for rank in groups.ranks] == ["genus", "family"], "the finest first"
    for rank, step in zip(groups.ranks, (9, 3), strict=True):
        sums = rank.sum(probabilities)
        np.testing.assert_allclose(sums.sum(axis=1), 1, atol=1e-5)
        np.testing.assert_allclose(sums[:, 1], probabilities[:, 1::step].sum(axis=1), atol=1e-6)


def test_a_photo_is_named_at_the_finest_rank_that_is_sure():
    groups = last_words(CLASSES)
    assert groups.surest(PROBABILITIES[2], 0.6) == ("class", "Laysan Albatross", pytest.approx(0.7))
    assert groups.surest(PROBABILITIES[0], 0.6) == ("group", "Sparrow", pytest.approx(0.8))
    assert groups.surest(PROBABILITIES[1], 0.7) == (None, None, None)


def test_a_rank_of_the_data_may_be_called_class():
    groups = from_ranks([("class", ("Aves",) * 3)], CLASSES)
    assert [row["rank"] for row in groups.report(PROBABILITIES, LABELS)] == ["label", "class"]
    assert groups.report(PROBABILITIES, LABELS)[1]["top1"] == 100


@pytest.mark.parametrize(
    "text",
    [
        "Song Sparrow,Sparrow\nFox Sparrow,Sparrow\nLaysan Albatross,Albatross\n",
        "class,group\nLaysan Albatross,Albatross\n\nsong_sparrow,Sparrow\nFOX sparrow, Sparrow \n",
        "001.Song_Sparrow\tSparrow\n002.Fox_Sparrow\tSparrow\n003.Laysan_Albatross\tAlbatross\n",
        '\ufeff"Song Sparrow";Sparrow\n"Fox Sparrow";Sparrow\n"Laysan Albatross";Albatross\n',
    ],
)
def test_files_as_people_write_them(tmp_path, text):
    groups = read_groups(write(tmp_path, text), CLASSES, RAW)
    (rank,) = groups.ranks
    assert rank.groups == ("Sparrow", "Sparrow", "Albatross")
    assert rank.name == "group"


def test_more_columns_are_ranks_named_by_the_header(tmp_path):
    text = "species,order,genus\nSong Sparrow,Passeriformes,Melospiza\nFox Sparrow,Passeriformes,Passerella\n"
    file = write(tmp_path, text + "Laysan Albatross,Procellariiformes,Phoebastria\n")
    ranks = read_groups(file, CLASSES).ranks
    assert [(rank.name, len(rank.names)) for rank in ranks] == [("genus", 3), ("order", 2)]
    without = write(tmp_path, file.read_text().split("\n", 1)[1], "bare.csv")
    assert [rank.name for rank in read_groups(without, CLASSES).ranks] == ["rank 2", "rank 1"]


COMPLETE = "Song Sparrow,Sparrow\nFox Sparrow,Sparrow\nLaysan Albatross,Albatross\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Song Sparrow,Sparrow\n", r"misses class 'Fox Sparrow' and 1 more; give each of the 3 classes a group"),
        (COMPLETE.replace("Fox Sparrow", "Fox Sparow"), r"misses class 'Fox Sparrow'; did you mean Fox Sparow\?; give"),
        (COMPLETE + "Fox Sparrow,Finch\n", r"groups.csv:4: class 'Fox Sparrow' has a group already"),
        (COMPLETE + "Fox Sparrow\n", r"groups.csv:4: 'Fox Sparrow' has no group; write class,group"),
        ("Song Sparrow,a,b\nFox Sparrow,a\n", r"groups.csv:2: class 'Fox Sparrow' has an empty group; write 2"),
        ("Song Sparrow,\n", r"groups.csv:1: class 'Song Sparrow' has an empty group"),
        ("\n\n", "is empty"),
    ],
)
def test_what_is_wrong_with_a_file_is_one_line(tmp_path, text, message):
    with pytest.raises(DataError, match=message) as caught:
        read_groups(write(tmp_path, text), CLASSES)
    assert "\n" not in str(caught.value)


def test_a_taxonomy_may_hold_more_than_the_classes(tmp_path, caplog):
    file = write(tmp_path, "species,genus\nSnowy Owl,Bubo\n" + COMPLETE + "Barn Owl,Tyto\n")
    with caplog.at_level(logging.WARNING, "flip"):
        (rank,) = read_groups(file, CLASSES).ranks
    assert rank.groups == ("Sparrow", "Sparrow", "Albatross")
    assert "2 names are no class of the data and are left out, such as 'Snowy Owl' (line 2)" in caplog.text


def test_a_group_of_all_classes_is_certain(tmp_path):
    groups = read_groups(write(tmp_path, "class,all,half\na,x,p\nb,x,p\nc,x,q\n"), ("a", "b", "c"))
    thirds = np.full(3, 1 / 3, np.float32)
    assert groups.surest(thirds, 1.0).group_score == 1
    for rank in groups.ranks:
        np.testing.assert_allclose(rank.sum(thirds[None]).sum(axis=1), 1, atol=1e-7)


def test_a_file_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(DataError, match="cannot be read as text"):
        read_groups(tmp_path / "none.csv", CLASSES)


def test_candidates_share_all_of_the_probability():
    candidates = Candidates("region.txt", np.array([True, False, True]))
    unreadable = np.full((1, 3), np.nan, np.float32)
    only_outside = np.array([[0, 1, 0]], np.float32)
    kept = candidates.restrict(np.concatenate([PROBABILITIES, only_outside, unreadable]))
    np.testing.assert_allclose(kept[0], [0.5 / 0.7, 0, 0.2 / 0.7], rtol=1e-6)
    np.testing.assert_allclose(kept[4], [0.5, 0, 0.5])
    assert np.isnan(kept[5]).all()
    report = candidates.report(kept[:4], LABELS)
    # Photo 1 is of no candidate; of the others photo 0 is right.
    assert (report["candidates"], report["outside"], report["n"]) == (2, 1, 3)
    assert report["top1"] == pytest.approx(100 / 3)


def test_candidates_are_read_from_lists_and_tables(tmp_path):
    listed = read_candidates(write(tmp_path, "song sparrow\n003.Laysan_Albatross\n", "list.txt"), CLASSES, RAW)
    table = read_candidates(write(tmp_path, "species,seen\nSong Sparrow,9\nLaysan Albatross,2\n"), CLASSES, RAW)
    assert listed.allowed.tolist() == table.allowed.tolist() == [True, False, True]


def test_a_regional_list_may_name_what_the_data_has_not_and_that_is_said(tmp_path, caplog):
    listed = read_candidates(write(tmp_path, "Crow\nFox Sparrow\nRaven\nSong Sparrow\n", "list.txt"), CLASSES)
    assert listed.allowed.tolist() == [True, True, False]
    assert "2 names are no class of the data and are left out, such as 'Crow' (line 1)" in caplog.text


def test_a_subset_of_one_class_is_one_line(tmp_path):
    with pytest.raises(DataError, match="names 1 of 3 classes; name two or more"):
        read_candidates(write(tmp_path, "Crow\nSong Sparrow\n"), CLASSES)
