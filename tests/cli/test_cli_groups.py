"""``--groups`` and ``--subset`` on the commands that predict."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest

from tests.cli.conftest import one_line, read_json, read_rows

CLASSES = ("black cat", "blue jay", "green frog", "red fox")


@pytest.fixture
def kinds(tmp_path):
    file = tmp_path / "kinds.csv"
    file.write_text(
        "class,kind,warm\nblack_cat,mammal,warm\nblue jay,bird,warm\ngreen frog,frog,cold\nred fox,mammal,warm\n"
    )
    return file


def test_an_evaluation_reports_each_rank(flip, squares, kinds, tmp_path):
    own = read_json(flip("zeroshot", "--data", squares, "--groups", kinds, "--top", 4, "--predictions", "rows.jsonl"))
    ranks = own["ranks"]
    assert [(row["rank"], row["groups"]) for row in ranks] == [("class", 4), ("kind", 3), ("warm", 2)]
    assert ranks[0]["top1"] == own["top1"]
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    mammal = {"black cat", "red fox"}
    kind = {name: "mammal" if name in mammal else name for name in CLASSES}
    right = []
    for row in rows:
        sums = {}
        for name, score in row["top"]:
            sums[kind[name]] = sums.get(kind[name], 0) + score
        assert sum(sums.values()) == pytest.approx(1, abs=1e-5)
        right.append(max(sums, key=sums.get) == kind[row["truth"]])
    assert ranks[1]["top1"] == pytest.approx(100 * np.mean(right))


@pytest.mark.parametrize("command", [("knn", "-k", 1), ("hybrid", "--head", "gda"), ("zeroshot",)])
def test_groups_auto_takes_the_last_word(flip, birds, command):
    own = read_json(flip(*command, "--groups", "auto"))
    assert [(row["rank"], row["groups"]) for row in own["ranks"]] == [("class", 4), ("group", 4)]
    assert own["ranks"][1]["top1"] == own["top1"], "every class has a last word of its own"


def test_a_row_names_the_surest_rank_where_the_class_is_not_sure(flip, squares, kinds, photo, tmp_path):
    arguments = ("zeroshot", "--data", squares, "--groups", kinds, "--reject", 0.6)
    (row,) = read_rows(flip(*arguments, photo))
    assert row["label"] is None
    sums = {"warm": sum(score for name, score in row["top"] if name != "green frog")}
    assert (row["rank"], row["group"]) == ("warm", "warm")
    assert row["group_score"] == pytest.approx(sums["warm"], abs=1e-5)
    flip(*arguments, "--predictions", "rows.csv")
    written = list(csv.DictReader((tmp_path / "rows.csv").open()))
    assert {"label", "score", "rank", "group", "group_score"} <= set(written[0])
    assert "rank" in flip(*arguments, "--format", "csv", photo).stdout.splitlines()[0]
    (sure,) = read_rows(flip(*arguments[:-1], 0.0, photo))
    assert (sure["rank"], sure["group"]) == ("class", sure["label"])
    assert "rank" not in read_rows(flip(*arguments[:-2], photo))[0]


def test_a_subset_restricts_the_answers_and_says_what_lies_outside(flip, squares, photo, tmp_path):
    (tmp_path / "region.txt").write_text("blue jay\nred fox\n")
    (row,) = read_rows(flip("zeroshot", "--data", squares, "--subset", "region.txt", photo))
    assert {name for name, score in row["top"] if score > 0} == {"blue jay", "red fox"}
    assert sum(score for _, score in row["top"]) == pytest.approx(1, abs=1e-5)
    result = flip("knn", "--data", squares, "-k", 3, "--subset", "region.txt")
    own = read_json(result)
    assert own["subset"]["outside"] == 12
    assert own["n"] == 24
    assert own["subset"]["n"] == 12
    assert own["top1"] == pytest.approx(own["subset"]["top1"] / 2), "photos of other classes cannot be right"
    assert "12 of 24 scored photos are of classes outside region.txt and count as wrong" in result.stderr
    few = read_json(flip("knn", "--data", squares, "-k", 1, "--subset", "region.txt", "--shots", 1, "--seeds", 2))
    assert few["shots"][0]["top1"] <= 50


def test_files_that_do_not_fit_are_one_line(flip, squares, tmp_path):
    (tmp_path / "g.csv").write_text("black cat,mammal\nblue jay,bird\nred fox,mammal\n")
    result = flip("knn", "--data", squares, "--groups", "g.csv")
    assert "misses class 'green frog'; give each of the 4 classes a group" in one_line(result, 1)
    assert "none.txt cannot be read" in one_line(flip("zeroshot", "--data", squares, "--subset", "none.txt"), 1)
