from __future__ import annotations

import json
import pickle
import sys
import time
import types
import zipfile
from collections import OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from flip.diffusion import ldm, ldm_config
from flip.diffusion.checkpoint import load_pipeline
from flip.diffusion.original_config import OriginalConfig
from flip.diffusion.pickles import read_pickled_tensors
from flip.diffusion.tokenizer import make_tokenizer
from flip.errors import CheckpointError, ConfigError
from tests.diffusion.tiny import SIZE, ldm_state, make_pipeline, save_ckpt, with_ema


def draw(pipeline: Any, **more: Any) -> np.ndarray:
    noise = [torch.Generator().manual_seed(i) for i in range(2)]
    pipeline.set_progress_bar_config(disable=True)
    prompts = ["a photo of a bird", 'a red bird; with "wings"']
    return pipeline(
        prompts, generator=noise, num_inference_steps=4, height=SIZE, width=SIZE, output_type="np", **more
    ).images


class TouchesAFile:
    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.file,)


class CallsSystem:
    def __reduce__(self) -> tuple[Any, ...]:
        import os

        return os.system, ("touch harm",)


def test_ckpt_draws_what_the_pipeline_draws(ckpt: Path, pipeline: Any, kept: Path) -> None:
    loaded = load_pipeline(ckpt, cache=kept)
    assert np.abs(draw(loaded.pipeline) - draw(pipeline)).max() <= 1 / 255
    for kind in ("unet", "vae", "text_encoder"):
        ours, theirs = (getattr(p, kind).state_dict() for p in (loaded.pipeline, pipeline))
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_folder_and_single_file_safetensors_draw_the_same(
    folder: Path, state: Any, pipeline: Any, kept: Path, tmp_path: Path
) -> None:
    file = tmp_path / "tiny.safetensors"
    save_file({name: value.contiguous() for name, value in state.items()}, file)
    expected = draw(pipeline)
    assert np.array_equal(draw(load_pipeline(folder, cache=kept).pipeline), expected)
    assert np.array_equal(draw(load_pipeline(file, cache=kept).pipeline), expected)


def test_configs_are_read_from_the_weights(state: Any, pipeline: Any) -> None:
    nothing, file = OriginalConfig(), Path("a.ckpt")
    unet, vae = ldm_config.unet_config(state, ldm.V1, nothing, file), ldm_config.vae_config(state, ldm.V1, nothing)
    for found, model in ((unet, pipeline.unet), (vae, pipeline.vae)):
        for key in found.keys() - {"sample_size"}:
            value = model.config[key]
            assert found[key] == (list(value) if isinstance(value, tuple) else value), key
    found = ldm_config.text_config(ldm.select_weights(state, ema=True), ldm.V1.texts[0], nothing)
    assert all(found[key] == getattr(pipeline.text_encoder.config, key) for key in found)


def test_config_of_stable_diffusion_v1() -> None:
    # Shapes only: four levels of two layers, the last without attention.
    def empty(*shape: int) -> torch.Tensor:
        return torch.empty(shape, device="meta")

    u = "model.diffusion_model."
    state = {u + "input_blocks.0.0.weight": empty(320, 4, 3, 3), u + "out.2.weight": empty(4, 320, 3, 3)}
    for i in range(1, 12):
        width = (320, 640, 1280, 1280)[(i - 1) // 3]
        if i % 3 == 0:
            state[f"{u}input_blocks.{i}.0.op.weight"] = empty(width, width, 3, 3)
            continue
        state[f"{u}input_blocks.{i}.0.out_layers.3.weight"] = empty(width, width, 3, 3)
        if i < 9:
            state[f"{u}input_blocks.{i}.1.proj_in.weight"] = empty(width, width, 1, 1)
            state[f"{u}input_blocks.{i}.1.transformer_blocks.0.attn2.to_k.weight"] = empty(width, 768)
    assert ldm_config.unet_config(state, ldm.V1, OriginalConfig(), Path()) == {
        "sample_size": 64,
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": [320, 640, 1280, 1280],
        "layers_per_block": 2,
        "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
        "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
        "cross_attention_dim": 768,
        "attention_head_dim": 8,
        "use_linear_projection": False,
    }


def test_averaged_weights_are_taken_unless_refused(state: Any, tmp_path: Path, kept: Path) -> None:
    other = make_pipeline(seed=1)
    file = save_ckpt(tmp_path / "ema.ckpt", with_ema(state, ldm_state(other)))
    averaged, plain = (load_pipeline(file, ema=ema, cache=kept) for ema in (True, False))
    name = "mid_block.resnets.0.conv1.weight"
    assert torch.equal(averaged.pipeline.unet.state_dict()[name], other.unet.state_dict()[name])
    assert not torch.equal(plain.pipeline.unet.state_dict()[name], other.unet.state_dict()[name])
    assert averaged.fingerprint != plain.fingerprint


def test_a_pickle_is_read_once_and_kept_as_safetensors(state: Any, tmp_path: Path) -> None:
    file = save_ckpt(tmp_path / "a.ckpt", state, optimizer_states=[{"state": torch.ones(1000)}])
    cache = tmp_path / "cache"
    load_pipeline(file, cache=cache)
    (made,) = (cache / "diffusion").iterdir()
    assert made.suffix == ".safetensors"
    stamp = made.stat().st_mtime_ns
    load_pipeline(file, cache=cache)
    assert made.stat().st_mtime_ns == stamp
    made.write_bytes(made.read_bytes()[:1000])  # a cut copy is made again
    load_pipeline(file, cache=cache)
    assert made.stat().st_size > 1_000_000


@pytest.fixture
def lightning(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Classes with the names that Lightning's and OmegaConf's would have, only to write pickles with."""
    made = {}
    for name in (
        "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
        "omegaconf.listconfig.ListConfig",
        "omegaconf.base.ContainerMetadata",
    ):
        module, _, kind = name.rpartition(".")
        for depth in range(module.count(".") + 1):
            part = ".".join(module.split(".")[: depth + 1])
            monkeypatch.setitem(sys.modules, part, sys.modules.get(part) or types.ModuleType(part))
        made[kind] = type(kind, (), {"__module__": module})
        setattr(sys.modules[module], kind, made[kind])
    return types.SimpleNamespace(**made)


def test_what_lightning_and_omegaconf_leave_is_read_over(state: Any, tmp_path: Path, lightning: Any) -> None:
    container, metadata = lightning.ListConfig(), lightning.ContainerMetadata()
    metadata.__dict__.update(key_type=Any, object_type=list, resolver_cache=defaultdict(dict))
    container.__dict__.update(_metadata=metadata, _content=[1, 2])
    callbacks = {lightning.ModelCheckpoint: {"best_model_score": np.float64(0.5), "monitor": np.arange(3)}}
    file = save_ckpt(tmp_path / "l.ckpt", state, callbacks=callbacks, hyper_parameters={"base": container})
    unsafe = torch.serialization.get_unsafe_globals_in_checkpoint(str(file))
    assert {"omegaconf.listconfig.ListConfig", "numpy._core.multiarray.scalar", "typing.Any"} <= set(unsafe)
    before = set(torch.serialization.get_safe_globals())
    tensors = read_pickled_tensors(file)
    assert tensors.keys() == state.keys()
    assert set(torch.serialization.get_safe_globals()) == before


@pytest.mark.parametrize("named", ["posix.system", "pathlib.Path.touch"])
def test_hostile_ckpt_runs_nothing(
    state: Any, named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    harm = tmp_path / "harm"
    payload = CallsSystem() if named == "posix.system" else TouchesAFile(harm)
    file = save_ckpt(tmp_path / "hostile.ckpt", state, callbacks=payload)
    pickle.loads(pickle.dumps(payload))
    assert harm.exists()  # it would
    harm.unlink()
    with pytest.raises(CheckpointError, match=rf"names .*{named.split('.')[0]}.*nothing of it was run"):
        load_pipeline(file, cache=kept)
    assert not harm.exists()


def test_hostile_in_newer_pickle_instructions_is_named(tmp_path: Path) -> None:
    file, harm = tmp_path / "p4.ckpt", tmp_path / "harm"
    torch.save({"state_dict": {}}, file)
    with zipfile.ZipFile(file) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            payload = pickle.dumps(CallsSystem(), protocol=4)
            archive.writestr(name, payload if name.endswith("data.pkl") else content)
    with pytest.raises(CheckpointError, match=r"names posix\.system"):
        read_pickled_tensors(file)
    assert not harm.exists()


def test_hostile_old_pickle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "old.ckpt"
    torch.save({"x": torch.zeros(2), "y": CallsSystem()}, file, _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match=r"refused: it names posix"):
        read_pickled_tensors(file)
    bare = tmp_path / "bare.ckpt"
    bare.write_bytes(pickle.dumps(CallsSystem()))
    with pytest.raises(CheckpointError, match=r"refused|no checkpoint"):
        read_pickled_tensors(bare)
    assert not (tmp_path / "harm").exists()


def test_old_pickle_of_tensors_is_read(tmp_path: Path) -> None:
    file = tmp_path / "old.ckpt"
    torch.save({"state_dict": OrderedDict(x=torch.arange(3.0))}, file, _use_new_zipfile_serialization=False)
    assert read_pickled_tensors(file)["x"].tolist() == [0, 1, 2]


def test_a_tensor_may_not_declare_more_than_the_file_holds(tmp_path: Path) -> None:
    file = save_ckpt(tmp_path / "wide.ckpt", {"x": torch.zeros(1).expand(10**12)})
    with pytest.raises(CheckpointError, match="more than the file holds"):
        read_pickled_tensors(file)


@pytest.mark.parametrize("member", ["data.pkl", "data/0", "version"])
def test_a_compressed_member_is_refused_at_once(member: str, tmp_path: Path) -> None:
    file = save_ckpt(tmp_path / "a.ckpt", {"x": torch.zeros(4)})
    with zipfile.ZipFile(file) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            squeezed = name.endswith(member)
            more = b"N0" * 20_000_000 if name.endswith("data.pkl") and squeezed else b""
            archive.writestr(name, more + content, zipfile.ZIP_DEFLATED if squeezed else zipfile.ZIP_STORED)
    start = time.process_time()
    with pytest.raises(CheckpointError, match=rf"refused: '[^']*{member}' in it is compressed"):
        read_pickled_tensors(file)
    assert time.process_time() - start < 1


def test_an_overlarge_pickle_is_refused_at_once(tmp_path: Path) -> None:
    file = save_ckpt(tmp_path / "a.ckpt", {"x": torch.zeros(4)})
    with zipfile.ZipFile(file) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, b"N0" * (3 << 20) + content if name.endswith("data.pkl") else content)
    start = time.process_time()
    with pytest.raises(CheckpointError, match=r"refused: its data.pkl has 6 MiB"):
        read_pickled_tensors(file)
    assert time.process_time() - start < 1


@pytest.mark.parametrize("share", [0.3, 0.9, 0.999])
def test_truncated(ckpt: Path, share: float, tmp_path: Path, kept: Path) -> None:
    whole = ckpt.read_bytes()
    file = tmp_path / "cut.ckpt"
    file.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(CheckpointError, match="truncated or no checkpoint"):
        load_pipeline(file, cache=kept)


def test_truncated_safetensors(state: Any, tmp_path: Path, kept: Path) -> None:
    file = tmp_path / "cut.safetensors"
    save_file({name: value.contiguous() for name, value in state.items()}, file)
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match="truncated or no safetensors"):
        load_pipeline(file, cache=kept)


def test_nan_is_named(state: Any, tmp_path: Path, kept: Path) -> None:
    broken = OrderedDict(state)
    name = "model.diffusion_model.out.2.bias"
    broken[name] = torch.full((4,), float("nan"))
    file = save_ckpt(tmp_path / "nan.ckpt", broken)
    with pytest.raises(CheckpointError, match=f"NaN or infinity in {name}"):
        load_pipeline(file, cache=kept)


def test_missing_pieces_are_named(state: Any, folder: Path, pipeline: Any, tmp_path: Path, kept: Path) -> None:
    part = {name: value for name, value in state.items() if not name.startswith("cond_stage_model")}
    file = save_ckpt(tmp_path / "part.ckpt", part)
    with pytest.raises(CheckpointError, match=r"has no text_encoder \(cond_stage_model.*--base"):
        load_pipeline(file, cache=kept)
    assert np.array_equal(draw(load_pipeline(file, base=folder, cache=kept).pipeline), draw(pipeline))
    short = OrderedDict(state)
    del short["model.diffusion_model.middle_block.0.in_layers.2.weight"]
    with pytest.raises(
        CheckpointError, match=r"mid_block\.resnets\.0\.conv1\.weight is missing \(1 weights of the unet"
    ):
        load_pipeline(save_ckpt(tmp_path / "short.ckpt", short), cache=kept)


def test_unknown_formats(tmp_path: Path, kept: Path) -> None:
    with pytest.raises(CheckpointError, match="no known format"):
        load_pipeline(save_ckpt(tmp_path / "other.ckpt", {"layer.weight": torch.zeros(3)}), cache=kept)
    (tmp_path / "text.ckpt").write_text("hello, I am text")
    with pytest.raises(CheckpointError, match=r"truncated or no checkpoint|refused"):
        load_pipeline(tmp_path / "text.ckpt", cache=kept)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="no model_index.json"):
        load_pipeline(tmp_path / "empty", cache=kept)
    with pytest.raises(CheckpointError, match=r"no file or folder .*did you mean text\.ckpt"):
        load_pipeline(tmp_path / "test.ckpt", cache=kept)
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(CheckpointError, match=r"holds a list and no weights"):
        load_pipeline(tmp_path / "list.pt", cache=kept)


def test_hub_name_that_is_not_here(kept: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nobody/nothing is not on this machine.*HF_HUB_OFFLINE.*--ckpt FOLDER"):
        load_pipeline("nobody/nothing", cache=kept)


@pytest.mark.parametrize("change", [{"unet": ["os", "system"]}, {"_class_name": ["pipeline", "Mine"]}])
def test_folder_that_names_foreign_classes(folder: Path, change: Any, tmp_path: Path, kept: Path) -> None:
    index = json.loads((folder / "model_index.json").read_text())
    (tmp_path / "model_index.json").write_text(json.dumps({**index, **change}))
    with pytest.raises(CheckpointError, match="refused"):
        load_pipeline(tmp_path, cache=kept)


def test_lora_needs_its_base_and_changes_it(folder: Path, pipeline: Any, tmp_path: Path, kept: Path) -> None:
    from diffusers import StableDiffusionPipeline
    from diffusers.utils import convert_state_dict_to_diffusers
    from peft import LoraConfig, get_peft_model_state_dict

    changed = make_pipeline()
    layers = ["to_k", "to_q", "to_v"]
    changed.unet.add_adapter(LoraConfig(r=2, lora_alpha=2, init_lora_weights="gaussian", target_modules=layers))
    for name, parameter in changed.unet.named_parameters():
        if "lora_B" in name:
            torch.nn.init.constant_(parameter, 0.2)
    weights = convert_state_dict_to_diffusers(get_peft_model_state_dict(changed.unet))
    StableDiffusionPipeline.save_lora_weights(tmp_path, unet_lora_layers=weights)
    (file,) = tmp_path.iterdir()
    with pytest.raises(ConfigError, match="--base"):
        load_pipeline(file, cache=kept)
    drawn = draw(load_pipeline(file, base=folder, cache=kept).pipeline)
    assert np.abs(drawn - draw(changed)).max() <= 1 / 255
    assert np.abs(drawn - draw(pipeline)).max() > 1 / 255


def test_tokenizer_agrees_with_open_clip() -> None:
    import open_clip

    ours, theirs = make_tokenizer(), open_clip.get_tokenizer("ViT-B-32")
    texts = [
        "a photo of a Black-footed Albatross.",
        "it's a bird's bill; \"quoted\"\nnew line\ttab",
        "naïve café 12345 !!! ??? a--b",
        "日本語 🐦",
        "",
        " ".join(["word"] * 500),
    ]
    for text in texts:
        ids = ours(text, padding="max_length", max_length=77, truncation=True).input_ids
        expected = theirs([text])[0].tolist()
        end = expected.index(49407)
        assert ids[: end + 1] == expected[: end + 1]
        assert set(ids[end:]) == {49407}  # Stable Diffusion pads with the end mark, open_clip with 0
