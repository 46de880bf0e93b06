"""``--precision auto``: measured once, remembered, and known again without torch."""

from pathlib import Path

import pytest

from flip.clip import precision
from flip.clip.model import load_model
from flip.clip.precision import choose_precision, recall_precision
from flip.device import resolve_device, resolve_precision
from flip.errors import ConfigError


class Device:
    """A device that this machine need not have."""

    def __init__(self, kind):
        self.device = type("D", (), {"type": kind})()


@pytest.fixture
def bf16_here(monkeypatch):
    monkeypatch.setattr("flip.device.bf16_in_hardware", lambda device: True)


@pytest.fixture
def speeds(monkeypatch, bf16_here):
    seconds = {"fp32": 2.0, "bf16": 1.0}
    monkeypatch.setattr(precision, "seconds_per_batch", lambda model, placement, name: seconds[name])
    return seconds


def test_auto_is_measured_once_where_the_cpu_has_bf16(tiny_model, tmp_path, speeds):
    model, cpu = load_model(str(tiny_model)), resolve_device("cpu")
    assert recall_precision(model.fingerprint, "cpu", tmp_path) is None
    assert choose_precision(model, cpu, "cpu", tmp_path) == "bf16"
    speeds["bf16"] = 1.8
    assert choose_precision(model, cpu, "cpu", tmp_path) == "bf16", "the choice is remembered"
    assert recall_precision(model.fingerprint, "cpu", tmp_path) == "bf16"
    assert recall_precision(model.fingerprint, "auto", tmp_path) is None, "another --device may be another machine"
    assert choose_precision(model, cpu, "cpu", tmp_path / "other") == "fp32", "10 % are not worth it"


def test_what_is_remembered_holds_for_one_machine(tiny_model, tmp_path, speeds, monkeypatch):
    model = load_model(str(tiny_model))
    choose_precision(model, resolve_device("cpu"), "cpu", tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert recall_precision(model.fingerprint, "cpu", tmp_path) is None


@pytest.mark.parametrize("content", ["", "[]", '{"precision": "fp12"}', "{"])
def test_a_damaged_memory_is_measured_again(tiny_model, tmp_path, speeds, content):
    model = load_model(str(tiny_model))
    choose_precision(model, resolve_device("cpu"), "cpu", tmp_path)
    for file in Path(tmp_path / "precision").glob("*.json"):
        file.write_text(content)
    assert recall_precision(model.fingerprint, "cpu", tmp_path) is None
    assert choose_precision(model, resolve_device("cpu"), "cpu", tmp_path) == "bf16"


@pytest.mark.parametrize(
    ("kind", "use", "expected"),
    [
        ("cuda", "embed", "bf16"),
        ("cuda", "draw", "bf16"),
        ("cuda", "train-clip", "bf16"),
        ("cuda", "train-diffusion", "bf16"),
        ("cpu", "embed", "fp32"),
        ("cpu", "draw", "fp32"),
        ("cpu", "train-clip", "bf16"),
        ("cpu", "train-diffusion", "fp32"),
    ],
)
def test_auto_where_bf16_is_in_hardware(bf16_here, kind, use, expected):
    assert resolve_precision("auto", Device(kind), use) == expected
    assert resolve_precision("bf16", Device(kind), use) == "bf16"


def test_auto_trains_a_convolutional_tower_in_fp32_on_a_cpu_only(bf16_here):
    assert resolve_precision("auto", Device("cpu"), "train-clip", convolutional=True) == "fp32"
    assert resolve_precision("auto", Device("cuda"), "train-clip", convolutional=True) == "bf16"


@pytest.mark.parametrize("use", ["embed", "draw", "train-clip", "train-diffusion"])
def test_auto_is_fp32_without_bf16_in_hardware(monkeypatch, use):
    monkeypatch.setattr("flip.device.bf16_in_hardware", lambda device: False)
    assert resolve_precision("auto", Device("cuda"), use) == "fp32"


def test_fp16_is_refused_where_it_does_not_work():
    for use, kind, message in [
        ("embed", "cpu", "fp16 needs a GPU; on a CPU pass bf16, fp32 or auto"),
        ("draw", "cpu", "fp16 needs a GPU"),
        ("train-clip", "cuda", "fp16 loses gradients that are too small for it; pass bf16, fp32 or auto"),
        ("train-diffusion", "cuda", "fp16 overflows in training; pass bf16, fp32 or auto"),
    ]:
        with pytest.raises(ConfigError, match=message):
            resolve_precision("fp16", Device(kind), use)
    assert resolve_precision("fp16", Device("cuda"), "embed") == "fp16"
