"""The time left, and how far a step is."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path

import pytest

from flip.errors import ConfigError
from flip.studies.demo_steps import Step, StepFolder, StepProgress, seconds_left, watched

STEPS = (Step("a", 10.0), Step("b", 30.0), Step("c", 60.0))


@pytest.mark.parametrize(
    ("at", "share", "passed", "expected"),
    [
        (0, 0.0, 0.0, 100.0),  # nothing is known: shares are seconds
        (0, 0.5, 10.0, 190.0),  # half of the first step took 10 s rather than 5
        (1, 0.0, 20.0, 180.0),  # twice as slow
        (2, 0.0, 20.0, 30.0),  # twice as fast
        (2, 1.0, 55.0, 0.0),
    ],
)
def test_the_time_left_learns(at: int, share: float, passed: float, expected: float) -> None:
    assert seconds_left(STEPS, at, share, passed) == pytest.approx(expected)


def test_parts_of_a_step_follow_each_other() -> None:
    shares: list[float] = []
    progress = StepProgress(shares.append)
    first = progress.part(0.8, 4)
    first(1)
    first(3)
    second = progress.part(0.2, 10)
    second(5)
    second(50)
    assert shares == pytest.approx([0.2, 0.8, 0.9, 1.0])


def test_a_bar_gets_the_share_and_the_seconds() -> None:
    told: list[tuple[float, float]] = []
    titles = []

    @contextmanager
    def bar(title):
        titles.append(title)
        yield lambda share, left: told.append((share, left))

    with watched(STEPS, 1, 10.0, bar) as progress:
        progress.part(1.0, 2)(1)
    assert titles == ["step 2 of 3: b"]
    ((share, left),) = told
    assert share == 0.5
    assert left == pytest.approx(75 * 10 / 25, rel=0.05)


def test_a_folder_keeps_what_steps_left(tmp_path: Path) -> None:
    kept = StepFolder(tmp_path / "d", "steps.json", {"seed": 0})
    kept.open(overwrite=False)
    kept.keep("a", {"rows": [1], "seconds": 2.0})
    again = StepFolder(tmp_path / "d", "steps.json", {"seed": 0})
    again.open(overwrite=False)
    assert again.done == {"a": {"rows": [1], "seconds": 2.0}}
    assert again.passed == 2.0
    with pytest.raises(ConfigError, match=r"seed 1 \(was 0\)"):
        StepFolder(tmp_path / "d", "steps.json", {"seed": 1}).open(overwrite=False)
    (tmp_path / "d" / "steps.json").write_text("{")
    with pytest.raises(ConfigError, match="is damaged"):
        again.open(overwrite=False)
    again.done = {}
    again.open(overwrite=True)
    assert again.done == {}
