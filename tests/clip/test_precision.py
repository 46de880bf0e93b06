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
    seconds = {"ratio": 0.5}
    monkeypatch.setattr(precision, "relative_time", lambda model, placement: seconds["ratio"])
    return seconds


def test_auto_is_measured_once_where_the_cpu_has_bf16(tiny_model, tmp_path, speeds):
    model, cpu = load_model(str(tiny_model)), resolve_device("cpu")
    assert recall_precision(model.fingerprint, "cpu", tmp_path) is None
    assert choose_precision(model, cpu, "cpu", tmp_path) == "bf16"
    speeds["ratio"] = 0.96
    assert choose_precision(model, cpu, "cpu", tmp_path) == "bf16", "the choice is remembered"
    assert recall_precision(model.fingerprint, "cpu", tmp_path) == "bf16"
    assert recall_precision(model.fingerprint, "auto", tmp_path) is None, "another --device may be another machine"
    assert choose_precision(model, cpu, "cpu", tmp_path / "other") == "fp32", "4 % are not worth it"


@pytest.mark.parametrize(
    ("ratio", "matrix_unit", "expected"),
    [
        *[(0.5, False, "bf16"), (0.8, False, "fp32"), (0.9, False, "fp32"), (0.74, True, "bf16")],
        *[(0.8, True, "bf16"), (0.94, True, "bf16"), (0.96, True, "fp32"), (1.4, True, "fp32")],
    ],
)
def test_where_a_measurement_is_near_the_border_the_processor_decides(
    tiny_model, tmp_path, speeds, monkeypatch, ratio, matrix_unit, expected
):
    monkeypatch.setattr(precision, "has_matrix_unit", lambda: matrix_unit)
    speeds["ratio"] = ratio
    model, cpu = load_model(str(tiny_model)), resolve_device("cpu")
    assert choose_precision(model, cpu, "cpu", tmp_path) == expected


@pytest.mark.parametrize("busy", [(1, 1), (9, 1), (1, 9)])
def test_a_machine_that_is_busy_now_and_then_tips_nothing(tiny_model, monkeypatch, busy):
    """The load of others costs wall time, which is not measured; what slows the processor slows both."""
    clock, calls = {"cpu": 0.0, "wall": 0.0}, []

    class Encoder:
        def __init__(self, seconds):
            self.seconds = seconds

        def prepare(self, image):
            return image

        def encode_images(self, images):
            calls.append(self.seconds)
            clock["cpu"] += self.seconds
            clock["wall"] += self.seconds * busy[len(calls) % 2]

    class Model:
        def placed(self, placement, name):
            return Encoder({"bf16": 1.0, "fp32": 2.0}[name])

    monkeypatch.setattr(precision.time, "process_time", lambda: clock["cpu"])
    monkeypatch.setattr(precision.time, "perf_counter", lambda: clock["wall"])
    assert precision.relative_time(Model(), None) == 0.5
    assert calls[:4] == [1.0, 2.0, 1.0, 2.0]


def test_what_is_remembered_holds_for_one_machine(tiny_model, tmp_path, speeds, monkeypatch):
    model = load_model(str(tiny_model))
    choose_precision(model, resolve_device("cpu"), "cpu", tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert recall_precision(model.fingerprint, "cpu", tmp_path) is None


@pytest.mark.parametrize("content", ["", "[]", '{"precision": "fp12"}', "{", "null", "7", '{"precision": ["fp32"]}'])
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
