"""Paired comparison of runs."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flip.cli.app import app
from flip.errors import ConfigError, DataError
from flip.report.compare import compare, few_shot_curves, holm, mcnemar
from flip.report.rows import run_names
from flip.results import Run

RunOf = Callable[..., Run]

TRUTHS = ["cat", "cat", "dog", "dog", "owl", "owl", "owl", "cat", "dog", "owl"]


def rows(guesses: list[str | None], truths: list[str] = TRUTHS) -> list[Any]:
    """None is an unreadable photo."""
    return [
        (
            f"p{i}.jpg",
            truth,
            "is no image" if guess is None else {guess: 0.75, "cat" if guess != "cat" else "dog": 0.25},
        )
        for i, (guess, truth) in enumerate(zip(guesses, truths, strict=True))
    ]


def wrong_at(*places: int) -> list[str | None]:
    return [("dog" if truth != "dog" else "owl") if i in places else truth for i, truth in enumerate(TRUTHS)]


def test_three_discordant_photos_by_hand(run_of: RunOf) -> None:
    a, b = run_of("a", rows(wrong_at(0, 1, 2))), run_of("b", rows(wrong_at(3)))
    (row,) = compare([a, b])
    assert (row.run, row.against, row.n) == ("b", "a", 10)
    assert (row.top1, row.against_top1) == pytest.approx((90, 70))
    assert (row.only_run, row.only_against) == (3, 1)
    # Differences: three +1, one -1, six 0: mean 0.2, sum of squares 4, variance (4 - 10 * 0.04) / 9 = 0.4.
    half = 1.959964 * math.sqrt(0.4 / 10)
    assert row.difference == pytest.approx(20)
    assert row.ci95 == pytest.approx((100 * (0.2 - half), 100 * (0.2 + half)), abs=1e-4)
    # Of four fair coins, one or fewer or three or more the same way: 2 * (1 + 4) / 16.
    assert row.p == pytest.approx(0.625)
    assert not row.significant


def test_mcnemar_of_equal_runs_is_one_and_of_ten_to_none_is_two_in_1024(run_of: RunOf) -> None:
    import numpy as np

    right = np.ones(10, dtype=bool)
    assert mcnemar(right, right) == 1
    assert mcnemar(right, ~right) == pytest.approx(2 / 1024)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []


def test_pairs(run_of: RunOf) -> None:
    runs = [run_of(name, rows(wrong_at(i))) for i, name in enumerate("abc")]
    assert [(r.run, r.against) for r in compare(runs)] == [("b", "a"), ("c", "a")]
    assert [(r.run, r.against) for r in compare(runs, "all")] == [("b", "a"), ("c", "a"), ("c", "b")]


def test_the_order_of_rows_does_not_matter_and_unreadable_photos_are_left_out(run_of: RunOf) -> None:
    a = run_of("a", rows(wrong_at(0)))
    b = run_of("b", rows([None if i == 4 else guess for i, guess in enumerate(wrong_at(1))])[::-1])
    (row,) = compare([a, b])
    assert (row.n, row.only_run, row.only_against, row.difference) == (9, 1, 1, 0)


def test_a_rejected_row_counts_with_its_guess(run_of: RunOf) -> None:
    a, b = run_of("a", rows(wrong_at())), run_of("b", rows(wrong_at()))
    file = b.folder / "predictions.jsonl"
    file.write_text("".join(json.dumps({**json.loads(r), "label": None}) + "\n" for r in file.read_text().splitlines()))
    assert compare([a, b])[0].difference == 0


def test_one_run_is_refused(run_of: RunOf) -> None:
    with pytest.raises(ConfigError, match="1 run cannot be compared; pass two or more folders"):
        compare([run_of("a", rows(wrong_at()))])


def test_other_photos_are_refused_with_the_counts(run_of: RunOf) -> None:
    a, b = run_of("a", rows(wrong_at())), run_of("b", rows(wrong_at()[:7], TRUTHS[:7]))
    with pytest.raises(
        DataError, match=r"a scored 10 photos and .*b 7, of which 7 are the same; compare runs of the same"
    ):
        compare([a, b])


def test_other_labels_are_refused_with_the_count(run_of: RunOf) -> None:
    other = ["puma" if truth == "cat" else truth for truth in TRUTHS]
    a, b = run_of("a", rows(wrong_at())), run_of("b", rows(wrong_at(), other))
    with pytest.raises(DataError, match=r"give 3 photos other labels, the first: p0.jpg is 'cat' and 'puma'"):
        compare([a, b])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"path": "p0.jpg", "label": "cat", "score": 1}\n', "holds damaged prediction rows"),
        ('{"path": "p0.jpg", "la', "cannot be read"),
        ('{"path": "p0.jpg", "error": "is no image"}\n', "holds 1 prediction rows, and its result is of 10 photos"),
    ],
)
def test_half_written_rows_are_one_line(run_of: RunOf, text: str, message: str) -> None:
    a, b = run_of("a", rows(wrong_at())), run_of("b", rows(wrong_at()))
    (b.folder / "predictions.jsonl").write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        compare([a, b])
    assert "\n" not in str(caught.value)


def test_names_tell_folders_apart(tmp_path: Path) -> None:
    assert run_names([tmp_path / "x" / "knn", tmp_path / "y" / "knn", tmp_path / "gda"]) == ["x/knn", "y/knn", "gda"]
    assert run_names([tmp_path / "knn", tmp_path / "knn"])[1].endswith("knn (2)")


SHOTS = [
    {"shots": 1, "top1": 60.0, "ci95": [50, 70], "seeds": 3, "head": "knn"},
    {"shots": "all", "top1": 80.0, "ci95": None, "seeds": 1, "head": "knn"},
]


def test_few_shot_curves_take_runs_of_all_photos_along(run_of: RunOf) -> None:
    a, b = run_of("a", rows(wrong_at(0))), run_of("b", rows(wrong_at()), details={"shots": SHOTS})
    curves = few_shot_curves([a, b])
    assert [row["shots"] for row in curves["a"]] == ["all"]
    assert curves["a"][0]["top1"] == 90
    assert curves["b"] == SHOTS
    with pytest.raises(ConfigError, match="none of these runs was made with --shots"):
        few_shot_curves([a, a])


class TestCommand:
    """``flip compare``."""

    def test_json_and_plot(self, run_of: RunOf, tmp_path: Path) -> None:
        run_of("$a_{", rows(wrong_at(0, 1))), run_of("_b", rows(wrong_at()), details={"shots": SHOTS})
        picture = tmp_path / "curves.svg"
        result = CliRunner().invoke(
            app, ["compare", str(tmp_path / "$a_{"), str(tmp_path / "_b"), "--plot", str(picture), "--format", "json"]
        )
        assert result.exit_code == 0, result.output
        found = json.loads(result.stdout)
        assert (found["command"], found["format"]) == ("compare", 1)
        assert found["comparisons"][0]["difference"] == pytest.approx(20)
        assert picture.read_text().startswith("<?xml")

    def test_table_and_csv(self, run_of: RunOf, tmp_path: Path) -> None:
        for name, guesses in (("a", wrong_at(0, 1)), ("b", wrong_at())):
            run_of(name, rows(guesses))
        folders = [str(tmp_path / "a"), str(tmp_path / "b")]
        table = CliRunner().invoke(app, ["compare", *folders, "--format", "table"])
        assert "+20.0" in table.stdout
        CliRunner().invoke(app, ["compare", *folders, "-o", str(tmp_path / "x.csv")])
        (row,) = csv.DictReader((tmp_path / "x.csv").open())
        assert float(row["ci95_low"]) == pytest.approx(float(row["difference"]) - (float(row["ci95_high"]) - 20))

    def test_no_run_is_a_usage_error_and_a_folder_of_something_else_one_line(self, tmp_path: Path) -> None:
        assert CliRunner().invoke(app, ["compare"]).exit_code == 2
        (tmp_path / "x").mkdir()
        result = CliRunner().invoke(app, ["compare", str(tmp_path / "x"), str(tmp_path / "x")])
        assert result.exit_code == 1
        assert result.stderr.count("\n") == 1
        assert "is no run of flip" in result.stderr
