"""Diffusers folders: variants are found, what is missing or foreign is one line, and nothing in them runs."""

from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from flip.diffusion.checkpoint import load_pipeline
from flip.errors import CheckpointError
from tests.diffusion.test_families import draw

WEIGHTS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}
HARM = "from pathlib import Path\nPath('harm').touch()\nclass Mine: ...\n"


@pytest.fixture
def own(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the tiny folder that a test may change; the working directory is its parent."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(folder, tmp_path / "model"))


def change(file: Path, **values: Any) -> None:
    content = json.loads(file.read_text()) if file.is_file() else {}
    file.write_text(json.dumps({**content, **values}))


def refused(folder: Path, kept: Path) -> str:
    with pytest.raises(CheckpointError) as error:
        load_pipeline(folder, cache=kept)
    message = str(error.value)
    assert "\n" not in message
    assert len(message) < 400
    assert not list(Path.cwd().rglob("harm"))
    return message


@pytest.mark.parametrize("parts", [tuple(WEIGHTS), ("unet",), ("text_encoder", "vae")])
def test_weights_that_are_there_in_half_precision_alone_are_found(
    parts: tuple[str, ...], own: Path, pipeline: Any, kept: Path
) -> None:
    for part in parts:
        file = own / part / f"{WEIGHTS[part]}.safetensors"
        file.rename(file.with_name(f"{WEIGHTS[part]}.fp16.safetensors"))
    assert np.array_equal(draw(load_pipeline(own, cache=kept).pipeline), draw(pipeline))


def test_plain_weights_are_taken_where_both_are_there(own: Path, pipeline: Any, kept: Path) -> None:
    for part, name in WEIGHTS.items():
        state = load_file(own / part / f"{name}.safetensors")
        save_file({n: v * 0 for n, v in state.items()}, own / part / f"{name}.fp16.safetensors")
    assert np.array_equal(draw(load_pipeline(own, cache=kept).pipeline), draw(pipeline))


@pytest.mark.parametrize("part", WEIGHTS)
def test_a_component_without_weights_is_named(part: str, own: Path, kept: Path) -> None:
    file = own / part / f"{WEIGHTS[part]}.safetensors"
    content = file.read_bytes()
    file.unlink()
    assert f"{own / part} holds no weights" in refused(own, kept)
    file.symlink_to("not there")
    assert "is a link to a file that is not there" in refused(own, kept)
    file.unlink()
    file.write_bytes(content[: len(content) // 2])
    refused(own, kept)
    shutil.rmtree(own / part)
    assert f"{own / part} holds no weights" in refused(own, kept)


@pytest.mark.parametrize("part", WEIGHTS)
@pytest.mark.parametrize("lost", [1, 5])
def test_weights_missing_in_a_file_are_counted(part: str, lost: int, own: Path, kept: Path) -> None:
    file = own / part / f"{WEIGHTS[part]}.safetensors"
    state = load_file(file)
    save_file(dict(list(state.items())[lost:]), file, {"format": "pt"})
    assert f"{file} lacks {lost} of its {len(state)} weights, the first" in refused(own, kept)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("unet", ["os", "system"]),
        ("unet", ["mine", "Mine"]),
        ("unet", ["diffusers_modules.local.mine", "Mine"]),
        ("unet", ["diffusers", "DiffusionPipeline"]),
        ("vae", ["transformers", "AutoModel"]),
        ("text_encoder", ["transformers", "AutoModel"]),
        ("tokenizer", ["transformers", "AutoTokenizer"]),
        ("scheduler", ["diffusers", "OnnxRuntimeModel"]),
        ("helper", ["subprocess", "Popen"]),
        ("helper", ["diffusers", "UNet2DConditionModel"]),
        ("_class_name", ["mine", "Mine"]),
        ("_class_name", "FluxPipeline"),
        ("_class_name", "StableDiffusionInpaintPipeline"),
        ("_class_name", 3),
        ("_class_name", "../mine"),
    ],
)
def test_classes_outside_the_list_are_refused(kind: str, value: Any, own: Path, kept: Path) -> None:
    for file in (own / "mine.py", own / "unet" / "mine.py", own / "pipeline.py"):
        file.write_text(HARM)
    change(own / "model_index.json", **{kind: value})
    assert "refused" in refused(own, kept)


@pytest.mark.parametrize(
    "file", ["unet/config.json", "text_encoder/config.json", "tokenizer/tokenizer_config.json", "model_index.json"]
)
@pytest.mark.parametrize(
    "values",
    [
        {"auto_map": {"AutoModel": "mine.Mine"}},
        {"trust_remote_code": True},
        {"deep": [{"tokenizer_kwargs": {"trust_remote_code": True}}]},
        {"custom_pipeline": "mine"},
    ],
)
def test_configurations_that_import_code_are_refused(file: str, values: Any, own: Path, kept: Path) -> None:
    (own / file).with_name("mine.py").write_text(HARM)
    change(own / file, **values)
    assert "refused" in refused(own, kept)


@pytest.mark.parametrize("content", ["", "[1]", "{", "[" * 100_000, "\x00", '"text"', "null"])
@pytest.mark.parametrize("file", ["model_index.json", "unet/config.json", "tokenizer/tokenizer.json"])
def test_odd_json_is_one_line(file: str, content: str, own: Path, kept: Path) -> None:
    (own / file).write_text(content)
    refused(own, kept)


def test_a_folder_without_its_tokenizer_is_named(own: Path, kept: Path) -> None:
    whole = (own / "tokenizer" / "tokenizer.json").read_text()
    small = json.loads(whole)
    small["model"]["vocab"] |= {f"more{i}": 49408 + i for i in range(9)}
    (own / "tokenizer" / "tokenizer.json").write_text(json.dumps(small))
    assert "tokenizer gives 49417 tokens and its text encoder knows 49408" in refused(own, kept)
    (own / "tokenizer" / "tokenizer.json").unlink()
    assert f"{own / 'tokenizer'} holds neither tokenizer.json nor vocab.json and merges.txt" in refused(own, kept)
    shutil.rmtree(own / "tokenizer")
    assert f"{own / 'tokenizer'} holds neither tokenizer.json" in refused(own, kept)


def test_an_inpainting_folder_is_refused(own: Path, kept: Path) -> None:
    state = load_file(own / "unet" / "diffusion_pytorch_model.safetensors")
    state["conv_in.weight"] = state["conv_in.weight"].repeat(1, 3, 1, 1)[:, :9].contiguous()
    save_file(state, own / "unet" / "diffusion_pytorch_model.safetensors", {"format": "pt"})
    change(own / "unet" / "config.json", in_channels=9)
    assert "is an inpainting model: its U-Net reads 9 channels" in refused(own, kept)


def test_what_a_folder_predicts_can_be_said(own: Path, pipeline: Any, kept: Path) -> None:
    plain = load_pipeline(own, cache=kept)
    told = load_pipeline(own, prediction="v_prediction", cache=kept)
    assert told.pipeline.scheduler.config.prediction_type == "v_prediction"
    assert told.fingerprint != plain.fingerprint
    assert load_pipeline(own, prediction="epsilon", cache=kept).fingerprint == plain.fingerprint
    change(own / "scheduler" / "scheduler_config.json", prediction_type="v_prediction")
    assert np.array_equal(draw(load_pipeline(own, cache=kept).pipeline), draw(told.pipeline))


def test_a_folder_makes_no_connection(own: Path, kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("a connection")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    change(own / "unet" / "config.json", _name_or_path="somebody/something")
    load_pipeline(own, cache=kept)
