"""The demo, shortened: all of its steps, its pictures, and a stop. tests/test_wheel.py runs it as the README has it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from flip.studies import demo, demo_drawing
from tests.cli.conftest import Flip, one_line, read_rows


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache for all demos here, so that the birds are drawn and embedded once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """A demo that learns next to nothing, quickly."""
    monkeypatch.setattr(demo, "SHOTS", (1, None))
    monkeypatch.setattr(demo, "CURVES", {"knn": 3, "linear": 2})
    monkeypatch.setattr(demo, "TUNING", replace(demo.TUNING, epochs=1))
    monkeypatch.setattr(demo_drawing, "TUNING", replace(demo_drawing.TUNING, epochs=1, views=1))
    monkeypatch.setattr(demo_drawing, "DRAWING", replace(demo_drawing.DRAWING, steps=4, per_class=1, draws=2))


def test_every_step_leaves_rows_pictures_and_models(flip: Flip, tmp_path: Path) -> None:
    done = flip("demo")
    printed = read_rows(done)
    assert "9 steps on 24 drawn species, 240 training and 720 test photos" in done.stderr
    assert re.findall(r"^step (\d) of 9: ", done.stderr, re.M) == [str(i) for i in range(1, 10)]
    assert re.search(r"^from \d+ % \(.*\) to \d+ % \(", done.stderr, re.M)
    assert done.stderr.count("--data PHOTOS") == 2
    folder = tmp_path / "flip-demo"
    summary = json.loads((folder / "demo.json").read_text())
    assert printed == summary["rows"]
    assert all(row["ci95"][0] < row["top1"] < row["ci95"][1] and row["n"] == 720 for row in printed)
    assert [row["seeds"] for row in summary["few_shot"]["kNN"]] == [3, 1]
    assert {"species.png", "drawn.png", "few-shot.png", "tuned", "diffusion"} <= {p.name for p in folder.iterdir()}
    refused = len(list((folder / "refused").rglob("*.png")))
    kept = len(list((folder / "augmented" / "train").rglob("*.png")))
    images = json.loads((folder / "steps.json").read_text())["steps"]["generating images"]["images"]
    assert images == {"kept": kept, "drawn": kept + refused}
    assert Image.open(folder / "species.png").size == (6 * 168 + 8, 4 * 204 + 8)
    assert Image.open(folder / "drawn.png").height == 24 * 104 + 18 + 16, "a row per species"


def test_after_a_stop_the_same_command_goes_on(flip: Flip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = list(demo.STEPS.items())
    made: list[str] = []

    def counted(title: str, work: Callable[..., Any], *, stop: bool = False) -> Callable[..., Any]:
        def run(job: demo.Demo, progress: Any) -> Any:
            made.append(title)
            if stop:
                raise KeyboardInterrupt
            return work(job, progress)

        return run

    short = [steps[1], steps[2], steps[3], steps[-1]]
    # The last step needs no images here.
    fake = {"generated_images": {"difference": 0.0, "ci95": [0.0, 0.0]}}
    works = [(s, w if s != steps[-1][0] else lambda job, progress: fake) for s, w in short]
    stopping = {s: counted(s.title, w, stop=i == 2) for i, (s, w) in enumerate(works)}
    monkeypatch.setattr(demo, "STEPS", stopping)
    stopped = flip("demo", "-o", "d")
    assert stopped.exit_code == 130
    assert "the same command resumes it" in stopped.stderr
    assert made == [s.title for s, _ in short[:3]]

    made.clear()
    monkeypatch.setattr(demo, "STEPS", {s: counted(s.title, w) for s, w in works})
    resumed = flip("demo", "-o", "d")
    assert resumed.exit_code == 0, resumed.output
    assert made == [s.title for s, _ in short[2:]]
    methods = [row["method"] for row in read_rows(resumed)]
    assert methods == ["zero-shot, CLIP of the sample"] * 3 + ["kNN", "head linear"]
    assert "seed 1 (was 0)" in one_line(flip("demo", "-o", "d", "--seed", 1), 1)
    made.clear()
    assert flip("demo", "-o", "d", "--overwrite", "--seed", 1).exit_code == 0
    assert len(made) == 4


def test_a_folder_with_other_work_is_refused(flip: Flip, tmp_path: Path) -> None:
    (tmp_path / "flip-demo").mkdir()
    (tmp_path / "flip-demo" / "thesis.txt").write_text("years")
    assert "flip-demo" in one_line(flip("demo"), 1)
