from __future__ import annotations

import json
import resource

import pytest
import torch
from safetensors.torch import load_file

from flip.clip.model import load_model
from flip.errors import CheckpointError
from flip.training.checkpoints import Checkpoint, CheckpointFolder, optimizer_tensors, restore_optimizer
from flip.training.clip.output import save_model


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
