"""Checkpoints of one file: every family draws as diffusers does with the same weights, or is refused by name."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from flip.device import resolve_device
from flip.diffusion import ldm, ldm_config, single_file
from flip.diffusion.checkpoint import load_pipeline
from flip.diffusion.original_config import OriginalConfig
from flip.diffusion.painter import Painter, Picture
from flip.diffusion.settings import CheckpointSettings, DrawSettings
from flip.errors import CheckpointError, ConfigError
from tests.diffusion.tiny import SIZE, YAML, ldm_state, make_pipeline, make_v2, make_xl, save_ckpt, v2_state, xl_state

PROMPTS = ["a photo of a bird!", 'a red bird; with "wings"']


def draw(pipeline: Any, **more: Any) -> np.ndarray:
    noise = [torch.Generator().manual_seed(i) for i in range(2)]
    pipeline.set_progress_bar_config(disable=True)
    size = {"height": SIZE, "width": SIZE}
    return pipeline(PROMPTS, generator=noise, num_inference_steps=4, output_type="np", **size, **more).images


def write(file: Path, state: Any, parameterization: str | None = None) -> Path:
    """Write a checkpoint, pickled or not by its suffix, with the .yaml beside it."""
    if parameterization is not None:
        file.with_suffix(".yaml").write_text(YAML.format(parameterization=parameterization))
    if file.suffix == ".ckpt":
        return save_ckpt(file, state)
    save_file({name: value.clone().contiguous() for name, value in state.items()}, file)
    return file


def same(ours: Any, theirs: Any) -> bool:
    return bool(np.abs(draw(ours) - draw(theirs)).max() <= 1 / 255)


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
def test_stable_diffusion_2_with_its_yaml(suffix: str, tmp_path: Path, kept: Path) -> None:
    theirs = make_v2()
    loaded = load_pipeline(write(tmp_path / f"v2{suffix}", v2_state(theirs), "v"), cache=kept)
    assert loaded.pipeline.scheduler.config.prediction_type == "v_prediction"
    assert loaded.pipeline.text_encoder.config.num_hidden_layers == 2  # of three: the last is not read
    assert same(loaded.pipeline, theirs)


@pytest.mark.parametrize(
    ("make", "name", "says"), [(make_pipeline, ldm_state, None), (make_v2, v2_state, "v")], ids=["1", "2"]
)
def test_diffusers_own_reader_of_files_draws_the_same(
    make: Any, name: Any, says: str | None, tmp_path: Path, kept: Path
) -> None:
    from diffusers import StableDiffusionPipeline

    source = make()
    source.save_pretrained(tmp_path / "config")
    file = write(tmp_path / "a.safetensors", name(source), says)
    theirs = StableDiffusionPipeline.from_single_file(str(file), config=str(tmp_path / "config"), local_files_only=True)
    assert same(load_pipeline(file, cache=kept).pipeline, theirs)


def test_what_stable_diffusion_2_predicts_is_asked_for(tmp_path: Path, kept: Path) -> None:
    theirs = make_v2()
    file = write(tmp_path / "v2.safetensors", v2_state(theirs))
    with pytest.raises(CheckpointError, match="do not tell what it predicts; pass --prediction v_prediction"):
        load_pipeline(file, cache=kept)
    with pytest.raises(
        CheckpointError, match=r"do not tell the attention heads of this Stable Diffusion 2 of width 64"
    ):
        load_pipeline(file, prediction="v_prediction", cache=kept)
    write(file, v2_state(theirs), "v")
    velocity = load_pipeline(file, cache=kept)
    noise = load_pipeline(file, prediction="epsilon", cache=kept)
    assert noise.pipeline.scheduler.config.prediction_type == "epsilon"
    assert noise.fingerprint != velocity.fingerprint
    theirs.scheduler = type(theirs.scheduler).from_config(theirs.scheduler.config, prediction_type="epsilon")
    assert same(noise.pipeline, theirs)
    assert not same(velocity.pipeline, theirs)


def test_with_a_base_its_configuration_counts(tmp_path: Path, kept: Path) -> None:
    theirs = make_v2()
    theirs.save_pretrained(tmp_path / "base")
    changed = make_v2(seed=1)
    file = write(tmp_path / "v2.safetensors", v2_state(changed))
    loaded = load_pipeline(file, base=tmp_path / "base", cache=kept)  # heads, layers, prediction, tokenizer
    assert loaded.pipeline.scheduler.config.prediction_type == "v_prediction"
    assert same(loaded.pipeline, changed)
    unet_alone = {n: v for n, v in v2_state(changed).items() if n.startswith("model.diffusion_model.")}
    mixed = load_pipeline(write(tmp_path / "unet.safetensors", unet_alone), base=tmp_path / "base", cache=kept)
    theirs.unet = changed.unet
    assert same(mixed.pipeline, theirs)
    wide = make_xl()
    wide.save_pretrained(tmp_path / "xl")
    other = make_xl(seed=1)
    unet_alone = {n: v for n, v in xl_state(other).items() if n.startswith("model.diffusion_model.")}
    mixed = load_pipeline(write(tmp_path / "xl.safetensors", unet_alone), base=tmp_path / "xl", cache=kept)
    wide.unet = other.unet
    assert same(mixed.pipeline, wide)
    with pytest.raises(CheckpointError, match="another shape than --base"):
        load_pipeline(
            write(tmp_path / "v1.safetensors", ldm_state(make_pipeline())), base=tmp_path / "base", cache=kept
        )


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
def test_stable_diffusion_xl(suffix: str, tmp_path: Path, kept: Path) -> None:
    theirs = make_xl()
    loaded = load_pipeline(write(tmp_path / f"xl{suffix}", xl_state(theirs), "eps"), cache=kept)
    assert type(loaded.pipeline).__name__ == "StableDiffusionXLPipeline"
    assert loaded.pipeline.unet.config.addition_time_embed_dim == 8
    assert same(loaded.pipeline, theirs)


def test_stable_diffusion_xl_of_velocity_says_so_by_a_key(tmp_path: Path, kept: Path) -> None:
    state = {**xl_state(make_xl()), "v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)}
    file = write(tmp_path / "xl.safetensors", state, "eps")
    assert load_pipeline(file, cache=kept).pipeline.scheduler.config.prediction_type == "epsilon"  # the .yaml is nearer
    file.with_suffix(".yaml").write_text("model: {params: {unet_config: {params: {num_head_channels: 64}}}}")
    config = load_pipeline(file, cache=kept).pipeline.scheduler.config
    assert (config.prediction_type, config.rescale_betas_zero_snr) == ("v_prediction", True)
    assert config.timestep_spacing == "trailing"


def test_the_painter_draws_what_a_pipeline_of_xl_draws(tmp_path: Path) -> None:
    theirs = make_xl()
    settings = DrawSettings(sampler="euler", steps=3, guidance=5.0, size=str(SIZE))
    ((_, ours),) = Painter(make_xl(), resolve_device("cpu"), settings).draw([Picture("a bird", 7)])
    theirs.scheduler = type(theirs.scheduler).from_config(theirs.scheduler.config, timestep_spacing="linspace")
    noise = [torch.Generator().manual_seed(7)]
    more = {"num_inference_steps": 3, "guidance_scale": 5.0, "width": SIZE, "height": SIZE}
    assert np.array_equal(np.asarray(ours), np.asarray(theirs("a bird", generator=noise, **more).images[0]))


def test_an_xl_folder(tmp_path: Path, kept: Path) -> None:
    theirs = make_xl()
    theirs.save_pretrained(tmp_path / "xl")
    assert same(load_pipeline(tmp_path / "xl", cache=kept).pipeline, theirs)


def published(levels: dict[int, int], cross: int, labels: int | None) -> Any:
    """Shapes of a published U-Net of width 320; for each level its number of attention blocks."""

    def empty(*shape: int) -> torch.Tensor:
        return torch.empty(shape, device="meta")

    u = "model.diffusion_model."
    state = {u + "input_blocks.0.0.weight": empty(320, 4, 3, 3), u + "out.2.weight": empty(4, 320, 3, 3)}
    if labels:
        state[u + "label_emb.0.0.weight"] = empty(1280, labels)
        state["conditioner.embedders.1.model.text_projection"] = empty(1280, 1280)
    for i in range(1, 3 * len(levels)):
        level, layer = divmod(i - 1, 3)
        width = (320, 640, 1280, 1280)[level]
        if layer == 2:
            state[f"{u}input_blocks.{i}.0.op.weight"] = empty(width, width, 3, 3)
            continue
        state[f"{u}input_blocks.{i}.0.out_layers.3.weight"] = empty(width, width, 3, 3)
        for depth in range(levels[level]):
            state[f"{u}input_blocks.{i}.1.proj_in.weight"] = empty(width, width)
            state[f"{u}input_blocks.{i}.1.transformer_blocks.{depth}.attn2.to_k.weight"] = empty(width, cross)
    return state


def test_configurations_of_the_published_models() -> None:
    # As unet/config.json of stable-diffusion-2-1 and of stable-diffusion-xl-base-1.0 have them.
    nothing, file = OriginalConfig(), Path("a.safetensors")
    two = ldm_config.unet_config(published({0: 1, 1: 1, 2: 1, 3: 0}, 1024, None), ldm.V2, nothing, file)
    assert (two["attention_head_dim"], two["cross_attention_dim"]) == ([5, 10, 20, 20], 1024)
    assert (two["use_linear_projection"], two.get("transformer_layers_per_block")) == (True, None)
    xl = ldm_config.unet_config(published({0: 0, 1: 2, 2: 10}, 2048, 2816), ldm.XL, nothing, file)
    assert (xl["attention_head_dim"], xl["transformer_layers_per_block"]) == ([5, 10, 20], [1, 2, 10])
    assert xl["down_block_types"] == ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"]
    assert (xl["addition_embed_type"], xl["addition_time_embed_dim"]) == ("text_time", 256)
    assert (xl["projection_class_embeddings_input_dim"], xl["sample_size"]) == (2816, 128)


def without_level(state: Any) -> Any:
    return {name.replace(".transformer.text_model.", ".transformer."): value for name, value in state.items()}


@pytest.mark.parametrize(
    "extra",
    [
        {},
        {
            "cond_stage_model.transformer.text_projection.weight": torch.eye(64),
            "cond_stage_model.logit_scale": torch.ones(1),
        },
        {"cond_stage_model.transformer.text_model.embeddings.position_ids": torch.arange(77.0)[None]},
        {
            "cond_stage_model.transformer.visual_projection.weight": torch.eye(8),
            "cond_stage_model.transformer.vision_model.embeddings.class_embedding": torch.ones(8),
            "first_stage_model.loss.logvar": torch.zeros(1),
        },
    ],
    ids=["plain", "projection", "positions", "vision"],
)
@pytest.mark.parametrize("rename", [dict, without_level], ids=["compvis", "novelai"])
def test_keys_that_people_leave_out_or_add(
    rename: Any, extra: Any, state: Any, pipeline: Any, tmp_path: Path, kept: Path
) -> None:
    loaded = load_pipeline(write(tmp_path / "a.safetensors", {**rename(state), **extra}), cache=kept)
    assert same(loaded.pipeline, pipeline)


def test_a_checkpoint_in_eight_bits(state: Any, tmp_path: Path, kept: Path) -> None:
    small = {n: v.to(torch.float8_e4m3fn) if v.is_floating_point() else v for n, v in state.items()}
    loaded = load_pipeline(write(tmp_path / "a.safetensors", small), cache=kept)
    name = "model.diffusion_model.out.2.weight"
    assert torch.equal(loaded.pipeline.unet.conv_out.weight.float(), small[name].float())


def wider(state: Any, channels: int) -> Any:
    name = "model.diffusion_model.input_blocks.0.0.weight"
    return {**state, name: torch.zeros(state[name].shape[0], channels, 3, 3)}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: wider(s, 9), "is an inpainting model: it reads a mask"),
        (lambda s: wider(s, 8), "is an InstructPix2Pix model"),
        (lambda s: wider(s, 7), "is an upscaler"),
        (lambda s: wider(s, 5), "is a depth-to-image model"),
        (lambda s: wider(s, 6), "reads 6 channels where latents have 4"),
        (lambda s: {**s, "edm_mean": torch.zeros(4)}, "is Playground 2.5"),
        (lambda s: {**s, "conditioner.embedders.0.model.ln_final.bias": torch.zeros(4)}, "is the refiner of"),
        (lambda s: {**s, "model.diffusion_model.label_emb.0.0.weight": torch.zeros(4, 4)}, "is an unCLIP model"),
    ],
)
def test_other_families_are_refused_by_name(change: Any, said: str, state: Any, tmp_path: Path, kept: Path) -> None:
    file = write(tmp_path / "a.safetensors", change(state))
    with pytest.raises(CheckpointError, match=said) as error:
        load_pipeline(file, cache=kept)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["joint_blocks.37.x_block.mlp.fc1.weight"], "of the family sd35_large"),
        (["model.diffusion_model.double_blocks.0.img_attn.norm.key_norm.scale"], "of the family flux"),
        (["decoder.conv_in.weight", "encoder.conv_in.weight"], "is an autoencoder alone"),
        (["emb_params"], "is a textual inversion"),
        (["clip_g", "clip_l"], "is a textual inversion"),
        (["control_model.input_hint_block.0.weight"], "is a ControlNet"),
        (["down_blocks.0.resnets.0.conv1.weight", "conv_in.weight"], "is a U-Net of a diffusers folder"),
        (["layer.weight"], "is in no known format"),
    ],
)
def test_files_of_other_things_are_named(names: list[str], said: str, tmp_path: Path, kept: Path) -> None:
    file = write(tmp_path / "a.safetensors", {name: torch.zeros(4, 4) for name in names})
    with pytest.raises(CheckpointError, match=said):
        load_pipeline(file, cache=kept)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- a\n- b\n", "is no configuration of latent diffusion"),
        ("model: {params: {parameterization: x0}}", "KeyError: 'x0'"),
        ("model: [", "is no configuration of latent diffusion"),
        ("!!python/object/apply:os.system ['touch harm']", "is no configuration of latent diffusion"),
        ("a" * (1 << 20) + "b", "larger than 1 MiB"),
    ],
)
def test_an_odd_yaml_is_one_line_and_runs_nothing(
    text: str, said: str, state: Any, tmp_path: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = write(tmp_path / "a.safetensors", state)
    file.with_suffix(".yaml").write_text(text)
    with pytest.raises(CheckpointError, match=said):
        load_pipeline(file, cache=kept)
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    "change",
    [
        lambda v: v.reshape(-1),
        lambda v: torch.zeros(()),
        lambda v: v[:0],
        lambda v: v.to(torch.int64),
        lambda v: v.to(torch.complex64),
        lambda v: torch.zeros(1, device="meta").expand(3, 70_000),
    ],
    ids=["flat", "scalar", "empty", "integers", "complex", "huge"],
)
@pytest.mark.parametrize(
    "name",
    [
        "model.diffusion_model.input_blocks.0.0.weight",
        "model.diffusion_model.input_blocks.1.0.out_layers.3.weight",
        "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight",
        "first_stage_model.encoder.down.0.block.0.conv2.weight",
        "first_stage_model.decoder.conv_in.weight",
        "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight",
        "cond_stage_model.transformer.text_model.embeddings.position_embedding.weight",
        "cond_stage_model.transformer.text_model.encoder.layers.0.mlp.fc1.weight",
    ],
)
def test_weights_of_odd_shapes_are_one_line(name: str, change: Any, state: Any) -> None:
    odd = ldm.select_weights({**state, name: change(state[name])}, ema=True)
    with pytest.raises(CheckpointError) as error:
        single_file.make_pipeline(odd, Path("a.safetensors"), None, None)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400


def test_heads_of_a_yaml_that_do_not_divide_are_told(state: Any, tmp_path: Path, kept: Path) -> None:
    with pytest.raises(CheckpointError, match="heads of 64 channels, which do not divide the widths 32, 64"):
        load_pipeline(write(tmp_path / "a.safetensors", state, "eps"), cache=kept)


def test_a_text_encoder_of_another_model_is_told(state: Any, tmp_path: Path, kept: Path) -> None:
    narrow = OrderedDict(state)
    for name in [n for n in narrow if n.endswith(("attn2.to_k.weight", "attn2.to_v.weight"))]:
        narrow[name] = narrow[name][:, :32].clone()
    with pytest.raises(CheckpointError, match="gives 64 numbers per token and its U-Net reads 32"):
        load_pipeline(write(tmp_path / "a.safetensors", narrow), cache=kept)


def test_a_copy_that_an_earlier_version_kept_is_made_again(tmp_path: Path) -> None:
    theirs, cache = make_v2(), tmp_path / "cache"
    file = write(tmp_path / "v2.ckpt", v2_state(theirs), "v")
    load_pipeline(file, cache=cache)
    (copy,) = (cache / "diffusion").iterdir()
    save_file({n: v.contiguous() for n, v in v2_state(theirs).items() if not n.startswith("cond")}, copy)
    assert same(load_pipeline(file, cache=cache).pipeline, theirs)


def test_an_unknown_prediction_is_refused(tmp_path: Path) -> None:
    for call in (lambda: CheckpointSettings(prediction="x"), lambda: load_pipeline(tmp_path, prediction="x")):
        with pytest.raises(ConfigError, match="--prediction 'x' is unknown; pass epsilon or v_prediction"):
            call()
