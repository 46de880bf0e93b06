from __future__ import annotations

import io
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path

import pytest
import torch
import typer
from safetensors.torch import load_file
from typer.testing import CliRunner

from flip.cli.app import app
from flip.cli.commands.finetune import FinetuneOptions, own_options
from flip.cli.finetune_output import print_result

ROOT = __file__.rsplit("/tests/", 1)[0]


@pytest.fixture
def flip(tmp_path, squares, tiny_model):
    """Run ``flip finetune`` on the squares in this process."""

    def run(*arguments, data=squares, model=tiny_model):
        given = [*arguments, "--cache", str(tmp_path / "cache"), "--batch-size", "8", "--lr", "1e-3", "--device", "cpu"]
        given += ["--val-fraction", "0.2", "--precision", "fp32"]
        given += [] if model is None else ["--model", str(model)]
        return CliRunner().invoke(app, ["finetune", "--data", str(data), *map(str, given)])

    return run


def command(squares, tiny_model, folder, *more):
    arguments = [
        "finetune",
        "--data",
        squares,
        "--model",
        tiny_model,
        "-o",
        folder,
        "--batch-size",
        "8",
        "--lr",
        "1e-3",
    ]
    arguments += ["--device", "cpu", "--precision", "fp32", "--no-scores", "--save-every", "1", "--val-fraction", "0.2"]
    return [*map(str, arguments), *more]


def environment():
    return os.environ | {"PYTHONPATH": ROOT, "OMP_NUM_THREADS": "1"}


def test_the_summary_says_what_was_gained_and_forgotten(flip, squares, tmp_path):
    result = flip(
        "-o", tmp_path / "run", "--epochs", "2", "--holdout-classes", "2", "--retain", squares, "--wise", "sweep"
    )
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    scores = {score["what"]: score for score in summary["scores"]}
    assert list(scores) == [
        "zero-shot, trained classes",
        "kNN, trained classes",
        "zero-shot, held-out classes",
        f"zero-shot, {squares}",
    ]
    assert [score["n"] for score in scores.values()] == [12, 12, 12, 24]
    for score in scores.values():
        assert score["difference"] == pytest.approx(score["after"] - score["before"])
        assert score["ci95"][0] <= score["difference"] <= score["ci95"][1]
    assert summary["wise"] in [point["weight"] for point in summary["wise_sweep"]]
    assert summary["lr_image"] == 1e-3
    assert (summary["command"], summary["format"]) == ("finetune", 1)
    notes = result.stderr
    assert "10 photos train, 2 of the training split choose the epoch" in notes
    assert "epoch 2 of 2: loss" in notes
    assert json.loads((tmp_path / "run" / "result.json").read_text()) == summary
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.parametrize("how", [["--epochs", "4"], ["--shots", "2"], ["--shots", "9", "--train", "projection"]])
def test_the_result_is_a_model_for_every_command(flip, squares, tmp_path, how):
    result = flip("-o", tmp_path / "run", "--no-scores", *how)
    assert result.exit_code == 0, result.output
    assert ("shots: 4 classes have fewer" in result.stderr) == ("9" in how)
    common = ["--data", squares, "--model", tmp_path / "run", "--cache", tmp_path / "cache"]
    for command in (["zeroshot"], ["knn"], ["hybrid", "--head", "ridge", "--shots", "2", "--seeds", "1"]):
        result = CliRunner().invoke(app, [*map(str, [*command, *common])])
        assert result.exit_code == 0, result.output
        assert json.loads(result.stdout)["n"] == 24
    assert CliRunner().invoke(app, [*map(str, ["embed", *common, "-o", tmp_path / "table"])]).exit_code == 0


def test_what_is_made_from_a_validation_photo_is_not_learned_from(tmp_path, caplog):
    from flip.data.dataset import Dataset, Record
    from flip.training.clip.finetune import open_augmented
    from tests.conftest import write_squares

    made = write_squares(tmp_path / "made" / "train", photos=2).parent
    rows = [{"file_name": f"red_fox/{i}.png", "source": f"/moved/birds/train/red_fox/{i}.png"} for i in range(2)]
    (made / "train" / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    validation = Dataset(
        tmp_path, "split-folders", ("red fox",), ("red_fox",), (Record("train/red_fox/1.png", 0, "train"),)
    )
    with caplog.at_level(logging.INFO, "flip"):
        left = open_augmented(made, validation)
    assert [r.path for r in left.records if "red_fox" in r.path] == ["train/red_fox/0.png"]
    assert len(left) == 7
    assert "left out 1 of 8 generated images: made from validation photos" in caplog.messages


def test_a_finished_run_is_not_trained_again(flip, tmp_path):
    first = flip("-o", tmp_path / "run", "--epochs", "1", "--no-scores")
    again = flip("-o", tmp_path / "run", "--epochs", "1", "--no-scores", "--resume")
    assert again.exit_code == 0
    assert again.stdout == first.stdout
    assert f"the run in {tmp_path / 'run'} is finished; --overwrite begins it again" in again.stderr
    refused = flip("-o", tmp_path / "run", "--epochs", "1")
    assert refused.exit_code == 1
    assert "holds a finished run; pass --overwrite to replace it, or another folder" in refused.stderr


def test_the_table_has_a_line_for_each_score(flip, tmp_path):
    result = flip("-o", tmp_path / "run", "--epochs", "1", "--format", "table", "--wise", "sweep")
    assert result.exit_code == 0, result.output
    assert "zero-shot, trained classes (n 24)" in result.stdout
    assert "95 % interval" in result.stdout
    # Without held-out classes there is nothing to say of them.
    assert "held out – % (–, 95 % interval – to –)" in result.stdout


class Terminal(io.StringIO):
    """Stands for stdout of somebody at a terminal."""

    def isatty(self):
        return True


@pytest.mark.parametrize("target", ["clip", "diffusion"])
def test_on_a_terminal_the_result_is_a_table_though_o_is_a_folder(monkeypatch, target):
    result = {"command": "finetune", "format": 1, "photos": 12, "loss": 0.25, "settings": {"epochs": 1}}
    options = FinetuneOptions(target=target, output=Path("out"))
    for stream in (Terminal(), io.StringIO()):
        monkeypatch.setattr(sys, "stdout", stream)
        print_result(options, result)
        if stream.isatty():
            assert "photos" in stream.getvalue()
            assert "{" not in stream.getvalue()
        else:
            assert json.loads(stream.getvalue()) == {k: v for k, v in result.items() if k != "settings"}


def values(name):
    """Return an option as the command line gives it, with its default where it has one."""
    field = next(f for f in fields(FinetuneOptions) if f.name == name)
    option = "--" + name.replace("_", "-")
    if field.default is False:
        return [option]
    return [option, str(field.default if field.default is not None else {"size": "64"}.get(name, "sample"))]


OF_CLIP = ["crop", "holdout_classes", "keep", "model", "no_scores", "patience", "retain", "train", "tta", "wise"]
OF_CLIP += ["arch", "augmented", "augmented_weight", "val_fraction"]
OF_DIFFUSION = ["base", "caption_dropout", "ckpt", "ema", "no_ema", "sample_every", "size", "snr_gamma", "views"]


def test_each_target_has_its_own_options():
    assert sorted(own_options("clip") - own_options("diffusion")) == sorted(OF_CLIP)
    assert sorted(own_options("diffusion") - own_options("clip")) == sorted(OF_DIFFUSION)


@pytest.mark.parametrize(
    ("target", "other", "name"),
    [*(("clip", "diffusion", name) for name in OF_DIFFUSION), *(("diffusion", "clip", name) for name in OF_CLIP)],
)
def test_an_option_of_the_other_target_is_refused_by_name(tmp_path, squares, target, other, name):
    given = ["finetune", "--data", squares, "-o", tmp_path / "run", "--target", target, *values(name)]
    result = CliRunner().invoke(app, [*map(str, given)])
    option = values(name)[0]
    assert result.exit_code == 1
    assert result.stderr == f"flip: {option} is for --target {other}; leave it out, or pass --target {other}\n"
    assert not (tmp_path / "run").exists()


def test_a_model_from_the_environment_is_not_given(tmp_path, squares, monkeypatch):
    monkeypatch.setenv("FLIP_MODEL", "sample")
    given = ["finetune", "--data", squares, "-o", tmp_path / "run", "--target", "diffusion", "--ckpt", "nowhere.ckpt"]
    result = CliRunner().invoke(app, [*map(str, given)])
    assert "--model" not in result.stderr
    assert "no file or folder nowhere.ckpt" in result.stderr


def test_every_option_of_both_targets_is_one_of_the_command(tmp_path):
    names = {f.name for f in fields(FinetuneOptions)}
    command = typer.main.get_command(app).commands["finetune"]
    assert {parameter.name for parameter in command.params} - {"help"} == names
    assert own_options("clip") | own_options("diffusion") <= names


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "no -o given; pass a folder for the fine-tuned model"),
        (["--holdout-classes", "3"], 1, "--holdout-classes 3 leaves 1 of 4 classes to train on; pass 2 or fewer"),
        (["--tta", "flip"], 1, "--tta flip is for features"),
        (["--wise", "2"], 2, "--wise '2' is not a weight; pass a number from 0 to 1, or sweep"),
        (["--wise", "half"], 2, "--wise 'half' is not a weight"),
        (["--val-fraction", "0.9"], 2, "--val-fraction 0.9 is outside 0 to 0.5"),
        (["--warmup", "-1"], 2, "--warmup -1 is outside 0 to 1"),
        (["--caption-share", "2"], 2, "--caption-share 2 is outside 0 to 1"),
        (["--augmented-weight", "2"], 2, "--augmented-weight 2 is outside 0 to 1"),
        (["--lr", "0"], 2, "--lr 0 is not positive"),
        (["--keep", "-1"], 2, "--keep -1 is negative; pass for example 1, or 0 for no such term"),
        (["--clip-grad", "0"], 2, "--clip-grad 0 is not positive"),
        (["--epochs", "0"], 2, "--epochs 0 is too small; pass 1 or more"),
        (["--lora", "0"], 2, "--lora 0 is too small; pass 1 or more"),
        (["--shots", "0"], 2, "--shots '0': '0' is no number of photos"),
        (["--shots", "1,2"], 2, "--shots 1,2: a run makes one model"),
        (["--shots", "2", "--wise", "sweep"], 2, "--wise sweep chooses by photos that are not trained on"),
        (["--from-scratch", "c.json"], 1, "--from-scratch begins with random weights; leave out --model"),
    ],
)
def test_what_cannot_be_carried_out_is_one_line(squares, tiny_model, tmp_path, arguments, code, message):
    output = ["-o", str(tmp_path / "run")] if arguments else []
    given = ["finetune", "--data", str(squares), "--model", str(tiny_model), *output, *arguments]
    result = CliRunner().invoke(app, given)
    assert result.exit_code == code
    assert message in result.stderr
    assert not (tmp_path / "run").exists()


def test_a_table_of_embeddings_has_no_photos_to_train_on(flip, squares, tiny_model, tmp_path):
    table = ["embed", "--data", squares, "--model", tiny_model, "-o", tmp_path / "table", "--cache", tmp_path / "c"]
    assert CliRunner().invoke(app, [*map(str, table)]).exit_code == 0
    result = flip("-o", tmp_path / "run", data=tmp_path / "table")
    assert result.exit_code == 1
    assert "is a table of embeddings, and training needs the photos" in result.stderr


def test_killed_at_any_moment_it_goes_on_and_ends_as_if_nothing_had_been(squares, tiny_model, tmp_path):
    more = ("--epochs", "12", "--train", "image", "--patience", "0")
    run = subprocess.Popen(
        [sys.executable, "-m", "flip", *command(squares, tiny_model, tmp_path / "run", *more)],
        env=environment(),
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    checkpoints = tmp_path / "run" / "checkpoints"
    deadline = time.monotonic() + 120
    while not (checkpoints.is_dir() and list(checkpoints.glob("step-*"))):
        assert run.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    run.kill()
    run.wait()
    assert not (tmp_path / "run" / "open_clip_model.safetensors").exists()
    begun = (tmp_path / "run" / "environment.json").stat()
    for folder in ("run", "whole"):
        given = command(squares, tiny_model, tmp_path / folder, *more)
        # In a process like the killed one: another number of threads adds numbers up in another order.
        result = subprocess.run(
            [sys.executable, "-m", "flip", *given], env=environment(), capture_output=True, text=True
        )
        assert result.returncode == 0, result.stderr
    # A new run writes what it begins with again.
    resumed = (tmp_path / "run" / "environment.json").stat()
    assert (resumed.st_ino, resumed.st_mtime_ns) == (begun.st_ino, begun.st_mtime_ns)
    ours, theirs = (load_file(tmp_path / f / "open_clip_model.safetensors") for f in ("run", "whole"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.slow
def test_interrupted_it_ends_with_130_and_a_checkpoint(squares, tiny_model, tmp_path):
    given = command(squares, tiny_model, tmp_path / "run", "--epochs", "500", "--train", "image", "--patience", "0")
    given[given.index("--save-every") + 1] = "100000"
    run = subprocess.Popen(
        [sys.executable, "-m", "flip", *given],
        env=environment(),
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not list((tmp_path / "run" / "checkpoints").glob("step-*")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    run.send_signal(signal.SIGINT)
    _, stderr = run.communicate(timeout=60)
    assert run.returncode == 130
    assert "interrupted; what was finished is kept" in stderr
    assert len(list((tmp_path / "run" / "checkpoints").glob("step-*"))) == 1


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.mark.slow
@pytest.mark.parametrize("accumulated", [1, 2])
def test_two_processes_equal_one_with_the_whole_batch(squares, tiny_model, tmp_path, accumulated):
    more = ["--epochs", "1", "--train", "full", "--lr", "1e-4", "--grad-accum", str(accumulated), "--patience", "0"]
    both = command(squares, tiny_model, tmp_path / "two", *more)
    both[both.index("--batch-size") + 1] = str(8 // (2 * accumulated))
    # On processors alone accelerate launch starts one process, or MPI; torchrun starts what it starts on GPUs.
    launch = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", str(free_port()), "-m", "flip"]
    done = subprocess.run(
        [sys.executable, *launch, *both], env=environment(), capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr
    one = command(squares, tiny_model, tmp_path / "one", *more)
    one[one.index("--batch-size") + 1] = str(8 // accumulated)
    result = CliRunner().invoke(app, one)
    assert result.exit_code == 0, result.output
    ours, theirs = (load_file(tmp_path / f / "open_clip_model.safetensors") for f in ("two", "one"))
    losses = [json.loads((tmp_path / f / "metrics.jsonl").read_text().splitlines()[0]) for f in ("two", "one")]
    assert losses[0]["loss"] == pytest.approx(losses[1]["loss"], abs=1e-5)
    assert losses[0]["val_loss"] == pytest.approx(losses[1]["val_loss"], abs=1e-4)
    far = sum(int(((ours[n] - theirs[n]).abs() > 1e-5).sum()) for n in theirs)
    assert far < 0.01 * sum(t.numel() for t in theirs.values())


@pytest.fixture
def tuned(flip, tmp_path):
    """A model that was fine-tuned on the training photos of the squares."""
    result = flip("-o", tmp_path / "tuned", "--epochs", "1", "--no-scores")
    assert result.exit_code == 0, result.output
    return tmp_path / "tuned"


def evaluated(command, data, model, cache, *more):
    return CliRunner().invoke(
        app, [command, "--data", str(data), "--model", str(model), "--cache", str(cache), "--precision", "fp32", *more]
    )


@pytest.mark.parametrize("command", ["zeroshot", "knn", "hybrid"])
def test_photos_that_a_model_was_fine_tuned_on_are_not_scored(command, tuned, squares, tmp_path):
    for split, count in (("train", 24), ("all", 24)):
        result = evaluated(command, squares, tuned, tmp_path / "cache", "--split", split)
        assert result.exit_code == 1
        assert f"was trained or chosen on {count} of the" in result.stderr
    assert evaluated(command, squares, tuned, tmp_path / "cache").exit_code == 0


def test_the_record_follows_photos_and_models(tuned, flip, squares, tmp_path):
    # The photos lie elsewhere, in other splits and under other names; the model folder was copied.
    for n, photo in enumerate(sorted((squares / "train").rglob("*.png"))):
        folder = tmp_path / "other" / ("test" if n % 2 else "train") / photo.parent.name
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(photo, folder / f"photo-{n}.png")
    shutil.copytree(tuned, tmp_path / "copied")
    assert "12 of the 12" in evaluated("zeroshot", tmp_path / "other", tmp_path / "copied", tmp_path / "c").stderr
    # A model that was trained on from it has seen them too, and its scores would mean nothing.
    refused = flip("-o", tmp_path / "again", "--epochs", "1", data=tmp_path / "other", model=tuned)
    assert refused.exit_code == 1
    assert "12 of the 12" in refused.stderr
    (squares_too := tmp_path / "more").mkdir()
    for split in ("train", "test"):
        shutil.copytree(squares / "test", squares_too / split)
    result = flip("-o", tmp_path / "further", "--epochs", "1", "--no-scores", data=squares_too, model=tuned)
    assert result.exit_code == 0, result.output
    for split in ("train", "test"):
        assert evaluated("zeroshot", squares, tmp_path / "further", tmp_path / "c", "--split", split).exit_code == 1
