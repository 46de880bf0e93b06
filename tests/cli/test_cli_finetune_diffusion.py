"""flip finetune --target diffusion as a user and a script meet it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flip.cli.app import app
from flip.training.settings import DiffusionSettings
from tests.conftest import write_squares
from tests.diffusion.tiny import ldm_state, make_pipeline, save_ckpt

QUICK = ("--size", "16", "--epochs", "1", "--batch-size", "6", "--views", "1")


@pytest.fixture(scope="session")
def ckpt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model as a Lightning checkpoint."""
    return save_ckpt(tmp_path_factory.mktemp("diffusion") / "tiny.ckpt", ldm_state(make_pipeline()))


@pytest.fixture(scope="session")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder for the whole run."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def flip(ckpt: Path, kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("FLIP_CACHE", str(kept))
    monkeypatch.chdir(tmp_path)
    write_squares(tmp_path / "data" / "birds" / "train", photos=3)
    write_squares(tmp_path / "data" / "birds" / "test", seed=1, photos=1)

    def call(*arguments: Any) -> Any:
        given = [str(ckpt) if a == "CKPT" else str(a) for a in arguments]
        return CliRunner().invoke(app, given)

    return call


def train(flip: Any, *arguments: Any) -> Any:
    return flip("finetune", "--target", "diffusion", *arguments)


def test_it_trains_and_generate_takes_what_it_wrote(flip: Any) -> None:
    result = train(flip, "--ckpt", "CKPT", *QUICK, "--sample-every", 2, "-o", "out", "-v")
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    assert (summary["command"], summary["format"]) == ("finetune", 1)
    assert (summary["photos"], summary["steps"], summary["trained"]) == (12, 2, "unet")
    assert "\nstep 2 of 2, loss" in result.stderr
    assert Path("out/samples/step-000002.png").is_file()
    drawn = flip("generate", "--ckpt", "out", "a red fox", "--size", "16", "--steps", "1")
    assert drawn.exit_code == 0, drawn.output
    again = train(flip, "--ckpt", "CKPT", *QUICK, "-o", "out", "--resume")
    assert "the run in out is finished; --overwrite begins it again" in again.stderr
    assert json.loads(again.stdout) == summary


def test_its_defaults_are_those_of_the_settings(flip: Any) -> None:
    result = train(flip, "--ckpt", "CKPT", "--epochs", 1, "--size", 16, "-o", "out")
    assert result.exit_code == 0, result.output
    settings = json.loads(Path("out/finetune.json").read_text())["settings"]
    assert DiffusionSettings(**settings) == DiffusionSettings(epochs=1, size=16)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--ckpt", "CKPT"], 2, "no -o given"),
        (["-o", "out"], 2, "no --ckpt given"),
        (["--ckpt", "CKPT", "-o", "out", "--wise", "0.5"], 1, "--wise is for --target clip"),
        (["--ckpt", "CKPT", "-o", "out", "--train", "image"], 1, "--train is for --target clip"),
        (["--ckpt", "CKPT", "-o", "out", "--size", "16x32"], 2, "is no square"),
        (["--ckpt", "CKPT", "-o", "out", "--caption-dropout", "2"], 2, "--caption-dropout 2"),
        (["--ckpt", "CKPT", "-o", "out", "--snr-gamma", "-1"], 2, "--snr-gamma -1 is negative"),
        (["--ckpt", "CKPT", "-o", "data"], 1, "data already holds files"),
        (["--ckpt", "nowhere.ckpt", "-o", "out"], 1, "no file or folder nowhere.ckpt"),
        (["--from-scratch", "none.json", "-o", "out"], 1, "none.json cannot be read"),
    ],
)
def test_slips_are_one_line(flip: Any, arguments: list[str], code: int, said: str) -> None:
    result = train(flip, *arguments)
    assert result.exit_code == code, result.output
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("flip: ")
    assert said in last
    assert "Traceback" not in result.output


@pytest.mark.slow
def test_processes_train_together(ckpt: Path, kept: Path, flip: Any, tmp_path: Path) -> None:
    # On processors alone accelerate launch starts one process; torchrun starts what it starts on GPUs.
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    launch += ["-m", "flip", "finetune", "--target", "diffusion"]
    call = [*launch, "--ckpt", str(ckpt), *QUICK, "-o", "together", "--device", "cpu"]
    environment = {**os.environ, "FLIP_CACHE": str(kept), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(call, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert (summary["photos_a_step"], summary["steps"]) == (12, 1)
    assert (tmp_path / "together" / "model_index.json").is_file()
