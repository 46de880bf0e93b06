"""``--prompts`` auto and taxon on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Flip, one_line, read_json


@pytest.fixture(autouse=True)
def _folder(birds: Path) -> None:
    """The test's folder holds data/birds."""


def zero_shot_of_train(flip: Flip, prompts: str) -> Any:
    return read_json(flip("zeroshot", "--split", "train", "--prompts", prompts, "--format", "json"))


def test_auto_takes_the_prompts_that_name_the_training_photos_best(flip: Flip) -> None:
    scores = {prompts: zero_shot_of_train(flip, prompts)["top1"] for prompts in ("plain", "clip")}
    result = flip("zeroshot", "--prompts", "auto", "--format", "json")
    found = read_json(result)["protocol"]
    assert found["prompts"] == max(scores, key=lambda prompts: scores[prompts])
    assert found["prompts_chosen_on"] == "training photos"
    assert "prompts plain: " in result.stderr
    # The test photos decide nothing.
    for photo in Path("data/birds/test/red_fox").iterdir():
        photo.unlink()
    again = read_json(flip("zeroshot", "--prompts", "auto", "--format", "json"))
    assert again["protocol"]["prompts"] == found["prompts"]


def test_heads_and_knn_take_auto_too(flip: Flip) -> None:
    for command in (("hybrid", "--head", "gda"), ("knn", "--text", "prompts")):
        assert read_json(flip(*command, "--prompts", "auto", "--format", "json"))["n"] == 8


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["hybrid", "--prompts", "auto", "--shots", "1"], 1, "--prompts auto chooses on all training photos"),
        (["finetune", "--prompts", "auto", "-o", "tuned"], 1, "--prompts auto chooses on training photos, in flip"),
        (["zeroshot", "--prompts", "taxon"], 1, "--prompts taxon: the data comes with no genus or scientific name"),
        (["zeroshot", "--prompts", "coarse"], 1, "--prompts coarse: the class names do not all fit one word"),
    ],
)
def test_what_does_not_fit_the_data_is_one_line(flip: Flip, arguments: list[str], code: int, said: str) -> None:
    assert said in one_line(flip(*arguments), code)
