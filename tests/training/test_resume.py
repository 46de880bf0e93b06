from __future__ import annotations

import json
import resource

import pytest
import torch
from safetensors.torch import load_file

from flip.clip.model import load_model
from flip.errors import CheckpointError, ConfigError
from flip.training.clip.output import save_model
from flip.training.resume import (
    Checkpoint,
    CheckpointFolder,
    begin_run,
    finished_result,
    may_resume,
    optimizer_tensors,
    restore_optimizer,
)


def checkpoint(step, size=4, **state):
    tensors = {"weights": {"w": torch.full((size,), float(step))}, "optimizer": {"exp_avg/w": torch.ones(size)}}
    return Checkpoint(tensors, {"step": step} | state)


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_latest_checkpoint_is_read_back_and_the_one_before_is_gone(tmp_path):
    folder = CheckpointFolder(tmp_path / "c")
    assert folder.load() is None
    for step in (5, 10):
        folder.save(checkpoint(step, loss_sum=0.1 + step))
    found = folder.load()
    assert found.state == {"step": 10, "loss_sum": 10.1}
    assert found.tensors["weights"]["w"].tolist() == [10.0] * 4
    assert found.tensors["optimizer"]["exp_avg/w"].tolist() == [1.0] * 4
    assert files(tmp_path / "c") == ["step-00000010"]


def test_the_best_weights_stay_while_a_checkpoint_refers_to_them(tmp_path):
    folder = CheckpointFolder(tmp_path)
    first = folder.save_best(1, {"w": torch.zeros(2)})
    folder.save(checkpoint(5, best_file=first))
    second = folder.save_best(2, {"w": torch.ones(2)})
    # Were it killed here, the latest checkpoint would still find its best weights.
    assert folder.load_best(folder.load().state["best_file"])["w"].tolist() == [0, 0]
    folder.save(checkpoint(9, best_file=second))
    assert files(tmp_path) == [second, "step-00000009"]
    folder.remove()
    assert not tmp_path.exists()


def test_what_a_killed_process_left_half_written_is_passed_over(tmp_path):
    folder = CheckpointFolder(tmp_path)
    folder.save(checkpoint(5))
    half = tmp_path / ".flip-tmp-abcdef-1-x-step-00000006"
    half.mkdir()
    (half / "weights.safetensors").write_bytes(b"half")
    assert folder.load().state["step"] == 5
    folder.save(checkpoint(6))
    assert files(tmp_path) == ["step-00000006"]


def test_a_damaged_checkpoint_is_one_line(tmp_path):
    folder = CheckpointFolder(tmp_path)
    folder.save(checkpoint(5, best_file="best-0001.safetensors"))
    (tmp_path / "step-00000005" / "weights.safetensors").write_bytes(b"rubbish")
    with pytest.raises(CheckpointError, match="step-00000005 is damaged .*start again with --overwrite"):
        folder.load()
    with pytest.raises(CheckpointError, match=r"best-0001.safetensors is damaged"):
        folder.load_best("best-0001.safetensors")


@pytest.fixture
def small_disk():
    """Files of this process cannot grow beyond 64 KiB: writing fails as it does on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_when_the_disk_is_full_the_checkpoint_before_is_intact(tmp_path, small_disk):
    folder = CheckpointFolder(tmp_path)
    folder.save(checkpoint(5))
    message = "checkpoint step-00000010 cannot be written .*the one before, step-00000005, is intact; make room"
    with pytest.raises(CheckpointError, match=message) as caught:
        folder.save(checkpoint(10, size=1 << 16))
    assert "\n" not in str(caught.value)
    assert folder.load().state["step"] == 5
    assert files(tmp_path) == ["step-00000005"]
    with pytest.raises(CheckpointError, match=r"checkpoint best-0002.safetensors cannot be written"):
        folder.save_best(2, {"w": torch.zeros(1 << 16)})
    assert files(tmp_path) == ["step-00000005"]


def test_when_the_disk_is_full_a_model_that_was_there_is_intact(tmp_path, tiny_model, small_disk):
    model = load_model(str(tiny_model))
    save_model(model, {"w": torch.zeros(2)}, tmp_path)
    with pytest.raises(
        CheckpointError, match=r"open_clip_model.safetensors cannot be written .*make room and run the same"
    ):
        save_model(model, model.network.state_dict(), tmp_path)
    assert load_file(tmp_path / "open_clip_model.safetensors")["w"].tolist() == [0, 0]


def test_tokenizer_files_of_the_source_folder_travel(tmp_path, tiny_model):
    import shutil

    source = shutil.copytree(tiny_model, tmp_path / "source")
    (source / "tokenizer.json").write_text("{}")
    model = load_model(str(source))
    save_model(model, model.network.state_dict(), tmp_path / "copy")
    assert (tmp_path / "copy" / "tokenizer.json").read_text() == "{}"
    config = json.loads((tmp_path / "copy" / "open_clip_config.json").read_text())
    assert config["model_cfg"] == model.config["model_cfg"]


def test_an_optimiser_goes_on_exactly_where_it_was():
    def steps(weight, optimizer, n):
        for i in range(n):
            optimizer.zero_grad()
            (weight * torch.arange(1.0, 4.0)).square().sum().mul(i + 1).backward()
            optimizer.step()

    whole = torch.nn.Parameter(torch.ones(3))
    steps(whole, torch.optim.AdamW([whole], lr=0.1), 3)
    first = torch.nn.Parameter(torch.ones(3))
    begun = torch.optim.AdamW([first], lr=0.1)
    steps(first, begun, 3)
    second = torch.nn.Parameter(first.detach().clone())
    resumed = torch.optim.AdamW([second], lr=0.1)
    restore_optimizer(resumed, optimizer_tensors(begun, {first: "w"}), {"w": second})
    steps(first, begun, 2)
    steps(second, resumed, 2)
    assert torch.equal(first, second)
    assert not torch.equal(first, whole)


KEY = {"lr": 1e-3, "epochs": 2, "data_fingerprint": "d", "model_fingerprint": "m"}


def may(folder, key=KEY, *, resume=False, overwrite=False):
    return may_resume(folder, key, result="result.json", resume=resume, overwrite=overwrite)


def test_an_unfinished_run_with_the_same_key_is_resumed_and_another_key_is_named(tmp_path):
    run = tmp_path / "run"
    assert not may(run)
    begin_run(run, KEY, ())
    assert may(run)
    assert may(run, resume=True)
    with pytest.raises(
        ConfigError, match=r"run was begun with other settings: lr 0.01 \(was 0.001\), epochs 3 \(was 2\)"
    ) as e:
        may(run, KEY | {"lr": 1e-2, "epochs": 3})
    assert "--overwrite to begin again" in str(e.value)
    assert not may(run, KEY | {"lr": 1e-2}, overwrite=True)


def test_a_finished_run_is_refused_and_returned_to_resume(tmp_path):
    begin_run(tmp_path, KEY, ())
    assert finished_result(tmp_path / "result.json", resume=True) is None
    (tmp_path / "result.json").write_text('{"loss": 1}')
    with pytest.raises(ConfigError, match="holds a finished run; pass --overwrite to replace it, or another folder"):
        may(tmp_path)
    assert finished_result(tmp_path / "result.json", resume=False) is None
    assert finished_result(tmp_path / "result.json", resume=True) == {"loss": 1}
    assert not may(tmp_path, overwrite=True)
    (tmp_path / "result.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"result.json is damaged .*--overwrite"):
        finished_result(tmp_path / "result.json", resume=True)


def test_a_new_run_removes_its_own_files_only(tmp_path):
    begin_run(tmp_path, KEY, ("result.json", "start"))
    (tmp_path / "start").mkdir()
    for name in ("result.json", "start/a.bin", "thesis.txt"):
        (tmp_path / name).write_text("{}")
    CheckpointFolder(tmp_path / "checkpoints").save(checkpoint(5))
    begin_run(tmp_path, KEY, ("result.json", "start"))
    assert files(tmp_path) == ["environment.json", "thesis.txt"]


def test_runs_of_earlier_versions_are_resumed_or_refused_in_one_line(tmp_path):
    (tmp_path / "environment.json").write_text(json.dumps({"decisive": KEY | {"layout": None}}))
    assert may(tmp_path)
    old = tmp_path / "diffusion"
    old.mkdir()
    (old / "checkpoint.pt").write_bytes(b"PK")
    with pytest.raises(CheckpointError, match="was written by an earlier flip .*pass --overwrite to begin again"):
        may(old, resume=True)
    assert not may(old, overwrite=True)
    (tmp_path / "environment.json").write_text("[]")
    with pytest.raises(CheckpointError, match=r"environment.json is damaged"):
        may(tmp_path)
