"""flip generate as a user and a script meet it, on a tiny model of the shape of Stable Diffusion."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner

from flip.cli.app import app
from tests.diffusion.tiny import ldm_state, make_pipeline, save_ckpt

QUICK = ("--size", 16, "--steps", 2)


@pytest.fixture(scope="module")
def ckpt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_ckpt(tmp_path_factory.mktemp("ckpt") / "tiny.ckpt", ldm_state(make_pipeline()))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def flip(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("FLIP_CACHE", str(cache))
    monkeypatch.chdir(tmp_path)

    def call(*arguments: Any, stdin: str | None = None) -> Any:
        return CliRunner().invoke(app, [str(a) for a in arguments], input=stdin)

    return call


def rows(result: Any) -> list[dict[str, Any]]:
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def one_line(result: Any, code: int) -> str:
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("flip: ")
    return str(last)


def test_rows_files_and_grid(flip: Any, ckpt: Path, tmp_path: Path) -> None:
    texts = ["a red bird", 'it\'s "quoted"; and\nmore']
    found = rows(flip("generate", "--ckpt", ckpt, *texts, "-n", 2, *QUICK, "--grid", "grid.png"))
    assert [(r["prompt"], r["index"], r["drawn"]) for r in found] == [(t, i, True) for t in texts for i in (0, 1)]
    assert len({r["seed"] for r in found}) == 4
    for row in found:
        assert Path(row["path"]).parent == Path("generated")
        assert Image.open(row["path"]).size == (16, 16)
    assert Image.open("grid.png").size == (2 * 20 + 4, 2 * 20 + 4)


def test_a_second_run_draws_only_what_is_missing(flip: Any, ckpt: Path) -> None:
    call = ("generate", "--ckpt", ckpt, "a", "b", "-n", 2, *QUICK, "-o", "out")
    first = rows(flip(*call))
    whole = [Path(r["path"]).read_bytes() for r in first]
    Path(first[2]["path"]).unlink()
    again = rows(flip(*call))
    assert [r["drawn"] for r in again] == [False, False, True, False]
    assert [Path(r["path"]).read_bytes() for r in again] == whole
    assert all(r["drawn"] for r in rows(flip(*call, "--overwrite")))


def test_prompts_from_stdin_and_a_file(flip: Any, ckpt: Path) -> None:
    long = "word " * 500
    Path("prompts.txt").write_text(f'from a file; "x"\n\n{long}\n')
    result = flip("generate", "--ckpt", ckpt, "first", "-", "--file", "prompts.txt", *QUICK, stdin="in one\nin two\n")
    assert [r["prompt"] for r in rows(result)] == ["first", "in one", "in two", 'from a file; "x"', long.strip()]
    assert "1 of 5 prompts are longer than the 77 tokens the model reads" in result.stderr


@pytest.mark.parametrize("form", ["csv", "json", "table"])
def test_formats(flip: Any, ckpt: Path, form: str) -> None:
    result = flip("generate", "--ckpt", ckpt, "a, b", "-n", 2, *QUICK, "--format", form)
    assert result.exit_code == 0, result.output
    if form == "csv":
        found = list(csv.DictReader(io.StringIO(result.stdout)))
        assert [r["prompt"] for r in found] == ["a, b", "a, b"]
    elif form == "json":
        assert [r["index"] for r in json.loads(result.stdout)] == [0, 1]
    else:
        assert len(result.stdout.splitlines()) == 2


def test_save_as_a_folder_that_draws_the_same(flip: Any, ckpt: Path) -> None:
    result = flip("generate", "--ckpt", ckpt, "--save-as", "model")
    assert (result.exit_code, result.stdout) == (0, "")
    assert Path("model/model_index.json").is_file()
    (a,) = rows(flip("generate", "--ckpt", ckpt, "a bird", *QUICK, "-o", "a"))
    (b,) = rows(flip("generate", "--ckpt", "model", "a bird", *QUICK, "-o", "b"))
    assert Image.open(a["path"]).tobytes() == Image.open(b["path"]).tobytes()
    assert "already holds files" in one_line(flip("generate", "--ckpt", ckpt, "--save-as", "model"), 1)


def test_what_the_model_predicts_and_a_lora_without_its_base(flip: Any, ckpt: Path) -> None:
    (plain,) = rows(flip("generate", "--ckpt", ckpt, "a bird", *QUICK))
    (told,) = rows(flip("generate", "--ckpt", ckpt, "a bird", *QUICK, "--prediction", "v_prediction"))
    assert told["path"] != plain["path"]
    assert Image.open(told["path"]).tobytes() != Image.open(plain["path"]).tobytes()
    assert "'epsilon', 'v_prediction'" in one_line(flip("generate", "--ckpt", ckpt, "a", "--prediction", "x0"), 2)
    save_file({"lora_unet_x.lora_down.weight": torch.ones(2, 4)}, "lora.safetensors")
    assert "is a LoRA" in one_line(flip("generate", "--ckpt", "lora.safetensors", "a bird"), 1)
    line = one_line(flip("generate", "--ckpt", "lora.safetensors", "--base", ckpt, "a bird", "-o", "other"), 1)
    assert "0 of its 1 layers have a place there" in line
    assert not Path("other").exists()


class Harm:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch harm",)


def test_hostile_ckpt_touches_nothing_and_is_named(flip: Any, tmp_path: Path) -> None:
    save_ckpt(tmp_path / "hostile.ckpt", {}, callbacks=Harm())
    line = one_line(flip("generate", "--ckpt", "hostile.ckpt", "a bird"), 1)
    assert "posix.system" in line
    assert not Path("harm").exists()
    assert not Path("generated").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["a bird"], 2, "no --ckpt;"),
        (["--ckpt", "x.ckpt"], 2, "no prompt given"),
        (["--ckpt", "x.ckpt", "a bird"], 1, "no file or folder x.ckpt"),
        (["--ckpt", "CKPT", "a bird", "--size", "100"], 2, "--size '100' is no size"),
        (["--ckpt", "CKPT", "a bird", "-n", "0"], 2, "-n 0 is too small"),
        (["--ckpt", "CKPT", "a bird", "--precision", "fp16", "--device", "cpu"], 1, "fp16 needs a GPU"),
        (["--ckpt", "CKPT", "a bird", "-o", "full"], 1, "full already holds files"),
        (["--ckpt", "CKPT", "--file", "none.txt"], 1, "none.txt cannot be read"),
        (["--ckpt", "CKPT", "a bird", "--sampler", "magic"], 2, "magic"),
    ],
)
def test_slips_are_one_line(flip: Any, ckpt: Path, arguments: list[str], code: int, said: str) -> None:
    Path("full").mkdir()
    Path("full/thesis.txt").write_text("mine")
    given = [str(ckpt) if a == "CKPT" else a for a in arguments]
    assert said in one_line(flip("generate", *given), code)


@pytest.mark.slow
def test_processes_split_the_work(ckpt: Path, cache: Path, tmp_path: Path) -> None:
    # On processors alone accelerate launch starts one process; torchrun starts what it starts on GPUs.
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    launch += ["-m", "flip", "generate", "--ckpt", str(ckpt)]
    environment = {**os.environ, "FLIP_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
    call = [*launch, "a", "b", "-n", "3", *map(str, QUICK), "--device", "cpu", "--grid", "grid.png"]
    done = subprocess.run(call, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert sorted((r["prompt"], r["index"]) for r in found) == [(p, i) for p in "ab" for i in range(3)]
    assert all(r["drawn"] for r in found)
    assert (tmp_path / "grid.png").is_file()
