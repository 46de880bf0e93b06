import json
import shutil

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from flip.clip.hub import known_models
from flip.clip.model import load_model
from flip.clip.weights import weights_hash
from flip.errors import ModelError
from tests.clip.tiny import write_hub_cache
from tests.conftest import TINY_CONFIG, write_model


@pytest.fixture
def tagged(tmp_path, monkeypatch):
    """A tiny architecture known to open_clip under two tags, one trained with QuickGELU, whose weights are here."""
    for name in ("_MODEL_CONFIGS", "_MODEL_CONFIG_PATHS"):
        monkeypatch.setattr(open_clip.factory, name, getattr(open_clip.factory, name).copy())
    config = tmp_path / "flip-test-tiny.json"
    config.write_text(json.dumps(TINY_CONFIG["model_cfg"]))
    open_clip.add_model_config(config)
    entry = {"hf_hub": "org/tiny/", "mean": (0.1, 0.2, 0.3), "std": (0.5, 0.5, 0.5), "interpolation": "bicubic"}
    entry["resize_mode"] = "squash"
    monkeypatch.setitem(
        open_clip.pretrained._PRETRAINED, "flip-test-tiny", {"quick": entry | {"quick_gelu": True}, "gelu": dict(entry)}
    )
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    write_hub_cache(tmp_path / "hub", "org/tiny", write_model(tmp_path / "m"))


def test_a_folder_loads_in_eval_with_its_own_preprocessing(tiny_model):
    model = load_model(str(tiny_model))
    assert not model.network.training
    assert model.dim == 32
    assert model.config["preprocess_cfg"]["mean"] == [0.48, 0.46, 0.41]
    assert model.preprocess(Image.new("RGB", (50, 40))).shape == (3, 32, 32)
    assert model.tokenize(["a bird"]).shape == (1, 16)
    assert model.logit_scale == pytest.approx(1 / 0.07, rel=1e-4)


def test_a_tag_trained_with_quick_gelu_gets_it(tagged):
    quick, gelu = load_model("flip-test-tiny/quick"), load_model("flip-test-tiny/gelu")
    activations = [type(m.network.transformer.resblocks[0].mlp.gelu).__name__ for m in (quick, gelu)]
    assert activations == ["QuickGELU", "GELU"]
    assert quick.config["model_cfg"]["quick_gelu"] is True
    assert quick.fingerprint != gelu.fingerprint


def test_a_tag_is_known_again_until_its_weights_change(tagged, tmp_path):
    first = load_model("flip-test-tiny/gelu")
    assert not load_model("flip-test-tiny/gelu")._model.is_loaded
    blob = tmp_path / "hub" / "models--org--tiny" / "blobs" / "open_clip_model.safetensors"
    blob.write_bytes((write_model(tmp_path / "other", seed=1) / blob.name).read_bytes())
    assert load_model("flip-test-tiny/gelu").fingerprint != first.fingerprint


def test_a_tag_keeps_the_preprocessing_it_was_trained_with(tagged):
    config = load_model("flip-test-tiny/quick").config["preprocess_cfg"]
    assert tuple(config["mean"]) == (0.1, 0.2, 0.3)
    assert config["resize_mode"] == "squash"


def test_the_fingerprint_knows_weights_and_preprocessing(tmp_path, tiny_model, other_model):
    same = shutil.copytree(tiny_model, tmp_path / "same")
    moved = shutil.copytree(tiny_model, tmp_path / "moved")
    config = json.loads((moved / "open_clip_config.json").read_text())
    config["preprocess_cfg"]["interpolation"] = "bilinear"
    (moved / "open_clip_config.json").write_text(json.dumps(config))
    prints = [load_model(str(folder)).fingerprint for folder in (tiny_model, same, moved, other_model)]
    assert prints[0] == prints[1]
    assert len(set(prints)) == 3


def test_a_weights_hash_is_remembered_until_the_file_changes(tmp_path):
    file, cache = tmp_path / "w", tmp_path / "cache"
    file.write_bytes(b"one")
    first = weights_hash(file, cache)
    memory = next((cache / "weights").glob("*.json"))
    content = json.loads(memory.read_text())
    memory.write_text(json.dumps(content | {"sha256": "0" * 64}))
    assert weights_hash(file, cache) == "0" * 64
    file.write_bytes(b"two!")
    assert weights_hash(file, cache) not in ("0" * 64, first)


def test_an_unknown_model_names_near_ones():
    with pytest.raises(ModelError, match=r"unknown model 'ViT-B-32/openia'; did you mean ViT-B-32/openai"):
        load_model("ViT-B-32/openia")
    with pytest.raises(ModelError, match="unknown model 'ViT-B-32'"):
        load_model("ViT-B-32")


def test_absent_weights_without_network_say_which_file_and_where(monkeypatch):
    with pytest.raises(ModelError) as e:
        load_model("ViT-B-32/openai")
    message = str(e.value)
    assert "\n" not in message
    assert "timm/vit_base_patch32_clip_224.openai" in message
    assert "open_clip_pytorch_model.bin" in message or "open_clip_model.safetensors" in message
    assert "hub" in message
    assert "HF_HUB_OFFLINE" in message


def test_an_absent_hub_model_without_network_is_one_line():
    with pytest.raises(ModelError, match=r"hf-hub:nobody/nothing is not on this machine.*--model FOLDER"):
        load_model("hf-hub:nobody/nothing")


def test_broken_model_folders_are_one_line(tmp_path, tiny_model):
    with pytest.raises(ModelError, match="has no open_clip_config.json"):
        load_model(str(tmp_path))
    (tmp_path / "open_clip_config.json").write_text("{}")
    with pytest.raises(ModelError, match="but no weights"):
        load_model(str(tmp_path))
    (tmp_path / "open_clip_model.safetensors").touch()
    with pytest.raises(ModelError, match="is not an open_clip configuration"):
        load_model(str(tmp_path))
    (tmp_path / "open_clip_config.json").write_text(json.dumps(TINY_CONFIG))
    (tmp_path / "open_clip_model.safetensors").write_bytes(
        (tiny_model / "open_clip_model.safetensors").read_bytes()[:900]
    )
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_model(str(tmp_path))


def test_weights_with_nan_are_refused(tmp_path):
    from safetensors.torch import load_file

    folder = write_model(tmp_path / "m")
    weights = load_file(folder / "open_clip_model.safetensors")
    weights["visual.proj"][0, 0] = float("nan")
    save_file(weights, folder / "open_clip_model.safetensors")
    with pytest.raises(ModelError, match="hold NaN"):
        load_model(str(folder))


def test_known_models_lists_the_default_and_finds_no_weights_here(tmp_path, monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    rows = {row.name: row for row in known_models()}
    assert rows["ViT-B-32/openai"].hub.startswith("timm/")
    assert not rows["ViT-B-32/openai"].here


def test_loading_twice_gives_the_same_embedding(tiny_model):
    pixels = torch.from_numpy(np.random.default_rng(0).normal(size=(1, 3, 32, 32)).astype(np.float32))
    with torch.inference_mode():
        a, b = (load_model(str(tiny_model)).network.encode_image(pixels) for _ in range(2))
    assert torch.equal(a, b)


def test_without_a_name_the_environment_decides(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setenv("FLIP_MODEL", str(tiny_model))
    assert load_model(cache=tmp_path).name == str(tiny_model)
