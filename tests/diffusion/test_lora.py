"""LoRA files in every naming draw as diffusers does with them; other kinds, and those that do not fit, are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from flip.diffusion.checkpoint import load_pipeline
from flip.diffusion.lora import add_lora, is_lora
from flip.errors import CheckpointError, ConfigError
from tests.diffusion.test_families import draw
from tests.diffusion.tiny import make_pipeline, make_xl

State = dict[str, torch.Tensor]
ATTENTION = ("attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0", "attn2.to_k", "attn2.to_v")
RANK = 2


def pairs(network: Any, endings: tuple[str, ...]) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Two random matrices for every layer whose name ends so: name → (down, up)."""
    generator = torch.Generator().manual_seed(0)
    found = {}
    for name, module in network.named_modules():
        if name.endswith(endings) and hasattr(module, "weight"):
            shape = module.weight.shape
            down = torch.randn(RANK, *shape[1:], generator=generator)
            up = torch.randn(shape[0], RANK, *(1,) * (len(shape) - 2), generator=generator)
            found[name] = (down * 0.3, up * 0.3)
    assert found
    return found


def kohya(layers: dict[str, Any], prefix: str = "lora_unet_", alpha: float | None = 1.0) -> State:
    state: State = {}
    for name, (down, up) in layers.items():
        key = prefix + name.replace(".", "_")
        state |= {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up}
        if alpha is not None:
            state[f"{key}.alpha"] = torch.tensor(alpha)
    return state


def old_diffusers(layers: dict[str, Any], prefix: str = "unet.") -> State:
    state: State = {}
    for name, (down, up) in layers.items():
        block, _, layer = name.replace("to_out.0", "to_out").rpartition(".")
        state |= {f"{prefix}{block}.processor.{layer}_lora.down.weight": down}
        state |= {f"{prefix}{block}.processor.{layer}_lora.up.weight": up}
    return state


def new_diffusers(layers: dict[str, Any], prefix: str = "unet.") -> State:
    return {
        f"{prefix}{name}.lora.{way}.weight": matrix
        for name, matrices in layers.items()
        for way, matrix in zip(("down", "up"), matrices, strict=True)
    }


def peft(layers: dict[str, Any], prefix: str = "unet.", adapter: str = "") -> State:
    return {
        f"{prefix}{name}.lora_{letter}{adapter}.weight": matrix
        for name, matrices in layers.items()
        for letter, matrix in zip("AB", matrices, strict=True)
    }


def save(file: Path, state: State, metadata: dict[str, str] | None = None) -> Path:
    save_file({name: value.clone().contiguous() for name, value in state.items()}, file, metadata)
    return file


def with_diffusers(pipeline: Any, file: Path) -> Any:
    """The pipeline with a LoRA that diffusers itself loaded."""
    pipeline.load_lora_weights(str(file.parent), weight_name=file.name, local_files_only=True)
    return pipeline


def text_layers(pipeline: Any) -> dict[str, Any]:
    found = pairs(pipeline.text_encoder, ("q_proj", "v_proj", "out_proj", "fc1"))
    return {f"text_model.{name.removeprefix('text_model.')}": matrices for name, matrices in found.items()}


NAMINGS: dict[str, Callable[[Any], State]] = {
    "kohya": lambda p: kohya(pairs(p.unet, ATTENTION)),
    "kohya without alpha": lambda p: kohya(pairs(p.unet, ATTENTION), alpha=None),
    "kohya with text": lambda p: kohya(pairs(p.unet, ATTENTION)) | kohya(text_layers(p), "lora_te_", 4.0),
    "kohya, all linear": lambda p: kohya(pairs(p.unet, (*ATTENTION, "proj_in", "ff.net.0.proj", "ff.net.2"))),
    "LoCon": lambda p: kohya(pairs(p.unet, (*ATTENTION, "conv1", "conv2", "time_emb_proj", "downsamplers.0.conv"))),
    "diffusers, old": lambda p: old_diffusers(pairs(p.unet, ATTENTION)),
    "diffusers": lambda p: new_diffusers(pairs(p.unet, ATTENTION)),
    "peft": lambda p: peft(pairs(p.unet, ATTENTION)),
    "peft with text": lambda p: peft(pairs(p.unet, ATTENTION)) | peft(text_layers(p), "text_encoder."),
    "text alone": lambda p: kohya(text_layers(p), "lora_te_", 3.0),
}


@pytest.mark.parametrize("naming", NAMINGS)
def test_it_draws_what_diffusers_draws_with_it(
    naming: str, folder: Path, pipeline: Any, tmp_path: Path, kept: Path
) -> None:
    file = save(tmp_path / "lora.safetensors", NAMINGS[naming](pipeline))
    ours = draw(load_pipeline(file, base=folder, cache=kept).pipeline)
    assert np.abs(ours - draw(with_diffusers(make_pipeline(), file))).max() <= 1 / 255
    assert np.abs(ours - draw(pipeline)).max() > 1 / 255


def test_the_scale_in_the_header_counts(folder: Path, pipeline: Any, tmp_path: Path, kept: Path) -> None:
    layers = pairs(pipeline.unet, ATTENTION)
    header = {"unet.r": RANK, "unet.lora_alpha": 8, "unet.target_modules": list(ATTENTION)}
    header |= {"unet.alpha_pattern": {}, "unet.rank_pattern": {}, "unet.use_rslora": False, "unet.use_dora": False}
    header |= {"unet.lora_bias": False, "unet.bias": "none"}
    file = save(tmp_path / "lora.safetensors", peft(layers), {"lora_adapter_metadata": json.dumps(header)})
    ours = draw(load_pipeline(file, base=folder, cache=kept).pipeline)
    assert np.abs(ours - draw(with_diffusers(make_pipeline(), file))).max() <= 1 / 255
    bare = save(tmp_path / "bare.safetensors", peft(layers))
    assert np.abs(ours - draw(load_pipeline(bare, base=folder, cache=kept).pipeline)).max() > 1 / 255
    header["unet.use_dora"] = True
    file = save(tmp_path / "lora.safetensors", peft(layers), {"lora_adapter_metadata": json.dumps(header)})
    with pytest.raises(CheckpointError, match="is DoRA"):
        load_pipeline(file, base=folder, cache=kept)


@pytest.mark.parametrize("adapter", ["", ".default"])
@pytest.mark.parametrize("rslora", [False, True])
def test_a_folder_of_peft(adapter: str, rslora: bool, folder: Path, pipeline: Any, tmp_path: Path, kept: Path) -> None:
    layers = pairs(pipeline.unet, ATTENTION)
    save(tmp_path / "adapter_model.safetensors", peft(layers, "base_model.model.", adapter))
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": 3, "use_rslora": rslora, "alpha_pattern": {"attn1.to_q": 5}}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    loaded = load_pipeline(tmp_path, base=folder, cache=kept)
    name = next(iter(layers))
    for ending, alpha in (("attn1.to_q", 5), ("attn2.to_v", 3)):
        name = next(n for n in layers if n.endswith(ending))
        down, up = layers[name]
        scale = alpha / RANK**0.5 if rslora else alpha / RANK
        expected = pipeline.unet.get_submodule(name).weight + scale * up @ down
        assert torch.allclose(loaded.pipeline.unet.get_submodule(name).weight, expected, atol=1e-5)
    for broken in ("{", '{"peft_type": "LOHA"}', "[1]"):
        (tmp_path / "adapter_config.json").write_text(broken)
        with pytest.raises(CheckpointError, match=r"configuration cannot be read|LOHA, which flip does not apply"):
            load_pipeline(tmp_path, base=folder, cache=kept)


XL_NAMES = {
    "down_blocks_1_attentions_0": "input_blocks_3_1",
    "mid_block_attentions_0": "middle_block_1",
    "up_blocks_0_attentions_0": "output_blocks_0_1",
    "up_blocks_0_attentions_1": "output_blocks_1_1",
}


@pytest.mark.parametrize("sgm", [False, True], ids=["diffusers' names", "stability's names"])
def test_a_lora_of_xl(sgm: bool, tmp_path: Path, kept: Path) -> None:
    base = make_xl()
    base.save_pretrained(tmp_path / "xl")
    state = kohya(pairs(base.unet, ATTENTION))
    if sgm:
        for theirs, ours in XL_NAMES.items():
            state = {name.replace(theirs, ours): value for name, value in state.items()}
        assert all("_blocks_0_attentions" not in name for name in state)
    state |= kohya(text_layers(base), "lora_te1_")
    second = pairs(base.text_encoder_2, ("q_proj", "out_proj", "fc2"))
    state |= kohya(second, "lora_te2_")
    file = save(tmp_path / "lora.safetensors", state)
    ours = draw(load_pipeline(file, base=tmp_path / "xl", cache=kept).pipeline)
    assert np.abs(ours - draw(with_diffusers(make_xl(), file))).max() <= 1 / 255
    assert np.abs(ours - draw(base)).max() > 1 / 255


OTHERS = {
    "DoRA": {"lora_unet_x.dora_scale": (4, 1)},
    "DoRA of peft": {"unet.x.lora_magnitude_vector": (4,)},
    "LoHa": {"lora_unet_x.hada_w1_a": (4, 2), "lora_unet_x.hada_w1_b": (2, 4)},
    "LoKr": {"lora_unet_x.lokr_w1": (2, 2), "lora_unet_x.lokr_w2": (2, 2)},
    "LoKr of lycoris": {"lycoris_x.lokr_w1": (2, 2)},
    "a full difference": {"lora_unet_x.diff": (4, 4)},
    "a full difference of biases": {"lora_unet_x.diff_b": (4,)},
    "LoCon with Tucker": {"lora_unet_x.lora_mid.weight": (2, 2, 3, 3)},
    "OFT": {"lora_unet_x.oft_blocks": (2, 2, 2)},
    "GLoRA": {"lora_unet_x.a1.weight": (2, 2)},
    "IA3": {"lora_unet_x.weight": (2,), "lora_unet_x.on_input": (1,)},
    "a control LoRA": {"lora_controlnet": (1,)},
}


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("mixed", [False, True])
def test_other_kinds_are_refused_by_name(
    kind: str, mixed: bool, folder: Path, pipeline: Any, tmp_path: Path, kept: Path
) -> None:
    state = {name: torch.zeros(shape) for name, shape in OTHERS[kind].items()}
    if mixed:
        state |= kohya(pairs(pipeline.unet, ATTENTION))
    assert is_lora(state)
    file = save(tmp_path / "a.safetensors", state)
    named = kind.partition(" of ")[0]
    with pytest.raises(CheckpointError, match=rf"is {named}.*which flip does not apply") as error:
        load_pipeline(file, base=folder, cache=kept)
    assert "\n" not in str(error.value)


def unchanged(pipeline: Any) -> bool:
    return all(
        torch.equal(a, b) for a, b in zip(pipeline.unet.parameters(), make_pipeline().unet.parameters(), strict=True)
    )


@pytest.mark.parametrize(
    ("state", "counts"),
    [
        (lambda p: kohya(pairs(make_xl().unet, ATTENTION)), "0 of its 48 layers"),
        (lambda p: {f"other.{n}": v for n, v in peft(pairs(p.unet, ATTENTION), "").items()}, "0 of its 24 layers"),
        (lambda p: kohya({n: (d[:, :8], u) for n, (d, u) in pairs(p.unet, ATTENTION).items()}), "0 of its 24 layers"),
        (
            lambda p: {n: v for n, v in kohya(pairs(p.unet, ATTENTION)).items() if "lora_up" not in n},
            "0 of its 48 layers",
        ),
        (
            lambda p: (
                kohya(dict(list(pairs(p.unet, ATTENTION).items())[:1]))
                | kohya({"q": (torch.ones(2, 4), torch.ones(4, 2))})
            ),
            "1 of its 2",
        ),
        (lambda p: {"lora_unet_x.alpha": torch.ones(1)}, "0 of its 1 layers"),
    ],
    ids=["of XL", "foreign names", "other widths", "no up", "half", "alpha alone"],
)
def test_what_does_not_fit_is_refused_with_counts(state: Any, counts: str, tmp_path: Path) -> None:
    base = make_pipeline()
    with pytest.raises(CheckpointError, match=rf"does not fit BASE: {counts}.*pass the --base"):
        add_lora(base, state(base), tmp_path / "lora.safetensors", "BASE", {})
    assert unchanged(base)


def test_a_layer_too_many_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    base = make_pipeline()
    state = kohya(pairs(base.unet, ATTENTION)) | kohya({"odd": (torch.ones(2, 4), torch.ones(4, 2))})
    add_lora(base, state, tmp_path / "lora.safetensors", "BASE", {})
    assert not unchanged(base)
    assert "1 of 25 layers have no place in BASE, the first lora_unet_odd" in caplog.text


def test_a_lora_without_its_base_is_refused(pipeline: Any, tmp_path: Path, kept: Path) -> None:
    for file in (tmp_path / "a.safetensors", tmp_path / "pytorch_lora_weights.safetensors"):
        save(file, kohya(pairs(pipeline.unet, ATTENTION)))
    torch.save(kohya(pairs(pipeline.unet, ATTENTION)), tmp_path / "a.pt")
    for given in ("a.safetensors", "a.pt", ""):
        with pytest.raises(ConfigError, match="is a LoRA, which changes another model; pass that model with --base"):
            load_pipeline(tmp_path / given, cache=kept)
