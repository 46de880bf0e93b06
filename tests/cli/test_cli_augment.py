"""flip augment as a user and a script meet it, on a tiny model of the shape of Stable Diffusion."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flip.cli.app import app
from flip.data.open import open_dataset
from tests.conftest import write_squares
from tests.diffusion.tiny import ldm_state, make_pipeline, save_ckpt

QUICK = ("--ckpt", "diffusion_weights.ckpt", "--size", "16", "--steps", "1", "--per-class", "2")


@pytest.fixture(scope="module")
def ckpt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_ckpt(tmp_path_factory.mktemp("ckpt") / "diffusion_weights.ckpt", ldm_state(make_pipeline()))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def flip(ckpt: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run flip in a folder with data/birds and diffusion_weights.ckpt."""
    monkeypatch.setenv("FLIP_CACHE", str(cache))
    monkeypatch.chdir(tmp_path)
    write_squares(tmp_path / "data" / "birds" / "train", photos=3)
    write_squares(tmp_path / "data" / "birds" / "test", seed=1, photos=1)
    shutil.copy(ckpt, tmp_path)

    def call(*arguments: Any) -> Any:
        return CliRunner().invoke(app, ["augment", *map(str, arguments)])

    return call


def rows(result: Any) -> list[dict[str, Any]]:
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_alone_it_does_the_whole_job(flip: Any) -> None:
    result = flip(*QUICK)
    found = rows(result)
    assert len(found) == 8
    assert "split-folders: 16 photos, 4 classes, train 12, test 4" in result.stderr
    assert "images are not filtered: the weights of ViT-B-32/openai" in result.stderr
    assert "augmented: 8 of 8 images after 8 attempts" in result.stderr
    made = open_dataset("augmented")
    assert made.raw_names == open_dataset("data/birds").raw_names
    assert {r["label"] for r in found} == set(made.classnames)
    again = rows(flip(*QUICK))
    assert [r["drawn"] for r in again] == [False] * 8
    assert {r["path"]: r["seed"] for r in again} == {r["path"]: r["seed"] for r in found}


def test_with_a_filter_and_from_photos(flip: Any, tiny_model: Path) -> None:
    result = flip(
        *QUICK,
        "--model",
        tiny_model,
        "--filter",
        "clip:0",
        "--strength",
        "0.5",
        "--steps",
        "2",
        "--draws",
        "2",
        "-o",
        "out",
    )
    report = json.loads(Path("out/augment.json").read_text())
    assert report["drawn_with"]["filter"].startswith("clip:0 ")
    assert report["wanted"] == 8
    assert report["kept"] + sum(report["short"].values()) == 8
    assert report["drawn"] == report["kept"] + sum(report["dropped"].values())
    if report["kept"]:
        found = rows(result)
        assert all(Path(r["source"]).parts[-3] == "train" for r in found)
        assert all(r["clip_similarity"] is not None for r in found)
    else:
        assert result.exit_code == 1
        assert "was kept" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([], 2, "no --ckpt;"),
        ([*QUICK, "--filter", "dino"], 2, "--filter 'dino' is unknown"),
        ([*QUICK, "--strength", "0"], 2, "--strength 0 is outside"),
        ([*QUICK, "--strength", "0.5"], 2, "--strength 0.5 takes that share of --steps 1, and leaves none"),
        ([*QUICK, "--per-class", "0"], 2, "--per-class 0 is too small"),
        ([*QUICK, "--prompts", "captions"], 1, "has no caption"),
        ([*QUICK, "--filter", "clip:0.1"], 1, "are not on this machine and could not be fetched"),
        ([*QUICK, "--model", "no-such-model"], 1, "unknown model 'no-such-model'"),
        ([*QUICK, "-o", "data"], 1, "data already holds files"),
        ([*QUICK, "--data", "nowhere"], 1, "nowhere"),
    ],
)
def test_slips_are_one_line(flip: Any, arguments: list[str], code: int, said: str) -> None:
    result = flip(*arguments)
    assert result.exit_code == code, result.output
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("flip: ")
    assert said in last
    assert "Traceback" not in result.output
