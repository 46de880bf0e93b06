"""``--model`` takes what people have, or says what it is and what to do."""

import json
import logging
import os

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from flip.clip.model import load_model
from flip.errors import ConfigError, ModelError
from tests.clip.tiny import (
    tiny_network,
    write_clip_model,
    write_config,
    write_hub_cache,
    write_parts,
    write_tokenizer,
)
from tests.conftest import TINY_CONFIG, write_model

TEXTS = ["a photo of a red fox", "a blue jay", "bird"]


@pytest.fixture
def architectures(tmp_path, monkeypatch):
    """open_clip knows the tiny architecture, and one of the same shapes that differs in its activation."""
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIGS", dict(open_clip.factory._MODEL_CONFIGS))
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIG_PATHS", list(open_clip.factory._MODEL_CONFIG_PATHS))
    tiny = TINY_CONFIG["model_cfg"]
    wider = tiny | {"embed_dim": 16}
    for name, config in [("tiny", tiny), ("other", wider), ("other-quickgelu", wider | {"quick_gelu": True})]:
        (tmp_path / f"{name}.json").write_text(json.dumps(config))
        open_clip.add_model_config(tmp_path / f"{name}.json")


def same_weights(model, network):
    ours, theirs = model.network.state_dict(), network.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def save_as(file, network):
    """Save a network in the form that a file's name says."""
    state = network.state_dict()
    if file.suffix == ".safetensors":
        save_file(state, file)
    elif "epoch" in file.name:
        wrapped = {f"module.{name}": tensor for name, tensor in state.items()}
        torch.save({"epoch": 3, "name": "run", "state_dict": wrapped, "optimizer": {"state": {}}}, file)
    elif "script" in file.name:
        torch.jit.script(network).save(str(file))
    else:
        torch.save(state, file)
    return file


# Bare weights


@pytest.mark.parametrize("name", ["w.safetensors", "pytorch_model.bin", "epoch_3.pt", "script.pt", "w.pth"])
def test_a_weights_file_is_loaded_by_its_architecture(architectures, tmp_path, name):
    network = tiny_network()
    model = load_model(str(save_as(tmp_path / name, network)), arch="tiny")
    assert same_weights(model, network)
    assert model.config["model_cfg"] == TINY_CONFIG["model_cfg"]
    assert model.encode_texts(TEXTS).shape == (3, 32)
    again = load_model(str(tmp_path / name), arch="tiny")
    assert not again._model.is_loaded, "it is remembered"
    assert again.fingerprint == model.fingerprint


@pytest.mark.parametrize("name", ["w.safetensors", "epoch_3.pt", "w.bin"])
def test_an_architecture_that_shapes_tell_is_guessed_and_said(architectures, tmp_path, caplog, name):
    with caplog.at_level(logging.INFO, "flip"):
        model = load_model(str(save_as(tmp_path / name, tiny_network())))
    assert f"{name} is taken for tiny by the shapes of its tensors" in caplog.text
    assert model.dim == 32


@pytest.mark.parametrize("arch", ["ViT-S-32-alt", "RN50-quickgelu", "ViT-B-32-256"])
def test_architectures_of_open_clip_are_told_by_their_shapes(arch):
    from pathlib import Path

    from flip.clip.guess import guess_architecture

    config = open_clip.get_model_config(arch)
    with torch.device("meta"):
        state = open_clip.CLIP(**config).state_dict()
    assert guess_architecture(state, Path("w.pt"), openai=True) == arch


def test_an_architecture_that_shapes_do_not_tell_is_asked_for(architectures, tmp_path):
    file = save_as(tmp_path / "w.bin", tiny_network(embed_dim=16))
    with pytest.raises(
        ModelError, match=r"w.bin fits other and other-quickgelu, whose shapes are the same; pass --arch"
    ):
        load_model(str(file))
    assert load_model(str(file), arch="other-quickgelu").config["model_cfg"]["quick_gelu"] is True
    script = save_as(tmp_path / "script.pt", tiny_network(embed_dim=16))
    assert load_model(str(script)).config["model_cfg"].get("quick_gelu") is True, "OpenAI's archives have QuickGELU"


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"model.diffusion_model.x": 1}, "holds a diffusion model; pass it as --ckpt"),
        ({"lora_te_text_model_x.lora_down.weight": 1}, r"holds low-rank additions \(LoRA\)"),
        ({"vision_model.pre_layrnorm.weight": 1}, "is transformers' model without its config.json"),
        ({"visual.trunk.x": 1, "text.y": 1}, "has an image tower of timm, which shapes do not tell; pass --arch"),
        ({"layer.weight": 1}, r"holds no CLIP model \(its first tensor is layer.weight\)"),
        (
            "tiny and odd",
            "fits no architecture of open_clip by its shapes .image tower 64 wide and 2 deep, patch 8, 32",
        ),
    ],
)
def test_other_weights_are_said_to_be_what_they_are(tmp_path, state, message):
    state = tiny_network().state_dict() if isinstance(state, str) else {name: torch.ones(2) for name in state}
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match=message):
        load_model(str(tmp_path / "w.safetensors"))


class Runs:
    def __reduce__(self):
        return os.system, ("touch /tmp/flip-test-was-run",)


def test_damaged_and_hostile_weights_are_one_line(architectures, tmp_path):
    whole = save_as(tmp_path / "w.bin", tiny_network()).read_bytes()
    (tmp_path / "cut.bin").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.pt").write_text("I am text")
    (tmp_path / "cut.safetensors").write_bytes(b"\xff" * 100)
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save({"epoch": 1}, tmp_path / "nothing.pt")
    torch.save({"state_dict": {"x": Runs()}}, tmp_path / "code.pt")
    for name, message in [
        ("cut.bin", "cannot be loaded"),
        ("text.pt", "cannot be loaded"),
        ("cut.safetensors", "cannot be loaded"),
        ("list.pt", "holds a list and no weights"),
        ("nothing.pt", "holds no weights"),
        ("code.pt", r"names posix.system, which weights never need .* nothing of it was run"),
        ("gone.pt", "no such model: .*gone.pt; pass a folder"),
    ]:
        for arch in (None, "tiny"):
            with pytest.raises(ModelError, match=message) as e:
                load_model(str(tmp_path / name), arch=arch)
            assert "\n" not in str(e.value)
            assert len(str(e.value)) < 500
    assert not os.path.exists("/tmp/flip-test-was-run")


def test_a_hostile_archive_is_one_line(architectures, tmp_path):
    """A TorchScript archive whose pickle names functions that this reader must not know."""
    import zipfile

    for i, name in enumerate(["ctorch\nLoadStorage\n", "cos\nsystem\n", "ctorch.jit._pickle\nload\n"]):
        with zipfile.ZipFile(tmp_path / f"{i}.pt", "w") as archive:
            archive.writestr("a/constants.pkl", "")
            archive.writestr("a/data.pkl", f"{name}(Vtouch /tmp/flip-test-was-run\ntR.".encode())
        with pytest.raises(ModelError, match="could run code; nothing of it was run"):
            load_model(str(tmp_path / f"{i}.pt"), arch="tiny")
    assert not os.path.exists("/tmp/flip-test-was-run")


def test_weights_that_do_not_fit_name_the_tensor(architectures, tmp_path):
    file = save_as(tmp_path / "w.bin", tiny_network())
    with pytest.raises(ModelError, match=r"w.bin cannot be loaded \(size mismatch for"):
        load_model(str(file), arch="other")


def test_arch_is_for_weights_files_alone(tiny_model, tmp_path):
    with pytest.raises(ConfigError, match="--arch tiny belongs to a weights file"):
        load_model(str(tiny_model), arch="tiny")
    with pytest.raises(ConfigError, match="--arch ViT-B-32 belongs to a weights file, and --model sample is none"):
        load_model("sample", arch="ViT-B-32")
    file = save_as(tmp_path / "w.bin", tiny_network())
    with pytest.raises(ConfigError, match="--arch 'ViT-B32' is unknown; did you mean ViT-B-32"):
        load_model(str(file), arch="ViT-B32")


def test_a_weights_file_goes_by_the_configuration_beside_it(tmp_path):
    folder = write_model(tmp_path / "m")
    other = tiny_network(seed=5)
    save_file(other.state_dict(), folder / "epoch_5.safetensors")
    model = load_model(str(folder / "epoch_5.safetensors"))
    assert same_weights(model, other)
    assert model.config["preprocess_cfg"]["mean"] == [0.48, 0.46, 0.41]


# Folders of transformers


def pixels_and_features(model, theirs):
    images = [Image.fromarray(np.random.default_rng(i).integers(0, 256, (40, 50, 3), np.uint8)) for i in range(3)]
    pixels = torch.stack([model.preprocess(image) for image in images])
    with torch.inference_mode():
        image = theirs.get_image_features(pixels).pooler_output
        text = theirs.get_text_features(model.tokenize(TEXTS)).pooler_output
    ours = model.encode_images([model.prepare(image) for image in images]), model.encode_texts(TEXTS)
    return ours, [torch.nn.functional.normalize(features, dim=-1).numpy() for features in (image, text)]


@pytest.mark.parametrize(
    ("text", "vision"),
    [
        ({}, {}),
        ({"hidden_act": "gelu"}, {"hidden_act": "gelu"}),
        ({"layer_norm_eps": 1e-6, "eos_token_id": 2}, {"layer_norm_eps": 1e-3, "num_attention_heads": 4}),
        ({"num_hidden_layers": 3, "hidden_size": 32}, {"image_size": 48, "patch_size": 16, "hidden_size": 96}),
    ],
)
def test_a_folder_of_transformers_clip_model_gives_transformers_features(tmp_path, text, vision):
    theirs = write_clip_model(tmp_path / "m", text, vision)
    model = load_model(str(tmp_path / "m"))
    ours, expected = pixels_and_features(model, theirs)
    assert ours[0] == pytest.approx(expected[0], abs=1e-5)
    assert ours[1] == pytest.approx(expected[1], abs=1e-5)
    assert model.logit_scale == pytest.approx(theirs.logit_scale.exp().item())
    assert not load_model(str(tmp_path / "m"))._model.is_loaded


def test_a_clip_model_with_a_tokenizer_of_its_own(tmp_path):
    small = {"vocab_size": 12, "eos_token_id": 2, "bos_token_id": 1, "pad_token_id": 0}
    theirs = write_clip_model(tmp_path / "m", small | {"eos_token_id": 3})
    with pytest.raises(ModelError, match="has no tokenizer, and its vocabulary is not CLIP's; put tokenizer.json"):
        load_model(str(tmp_path / "m"))
    write_tokenizer(tmp_path / "m")
    theirs.config.text_config.eos_token_id = theirs.text_model.eos_token_id = 5
    theirs.save_pretrained(str(tmp_path / "m"))
    model = load_model(str(tmp_path / "m"))
    assert model.tokenize(["a red fox"])[0, :6].tolist() == [1, 4, 7, 9, 2, 0]
    ours, expected = pixels_and_features(model, theirs)
    assert ours[1] == pytest.approx(expected[1], abs=1e-5)


def test_a_clip_model_in_parts_and_its_preprocessing(tmp_path):
    theirs = write_clip_model(tmp_path / "m", max_shard_size="200KB")
    assert len(list((tmp_path / "m").glob("model-0*.safetensors"))) > 1
    preprocessor = {
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.25, 0.25, 0.25],
        "resample": 2,
        "do_center_crop": False,
    }
    (tmp_path / "m" / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    model = load_model(str(tmp_path / "m"))
    config = model.config["preprocess_cfg"]
    assert (config["mean"], config["interpolation"], config["resize_mode"]) == ([0.5, 0.5, 0.5], "bilinear", "squash")
    ours, expected = pixels_and_features(model, theirs)
    assert ours[0] == pytest.approx(expected[0], abs=1e-5)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"model_type": "siglip", "architectures": ["SiglipModel"], "vision_config": {"image_size": 384}},
            "is transformers' SiglipModel, .*--model ViT-B-16-SigLIP-384/webli",
        ),
        ({"model_type": "clip_vision_model"}, "'clip_vision_model', which flip does not read; it is one tower of two"),
        ({"model_type": "bert", "architectures": ["BertModel"]}, "is transformers' BertModel, .*pass ARCH/TAG"),
        ({}, "model of no type, which flip does not read"),
        ({"model_type": "clip", "text_config": {"hidden_act": "gelu_new"}}, "gelu_new, quick_gelu .* no counterpart"),
    ],
)
def test_other_folders_of_transformers_are_refused_by_name(tmp_path, config, message):
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file({"x": torch.ones(2)}, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=message):
        load_model(str(tmp_path))


@pytest.mark.parametrize(
    "variant", ["ViT-B-16-SigLIP-384/webli", "ViT-L-16-SigLIP-256/webli", "ViT-SO400M-16-SigLIP2-256/webli"]
)
def test_the_siglip_that_is_advised_is_one_that_open_clip_has(variant):
    from flip.clip.convert import _siglip_tag

    size, patch, family, image = variant.split("/")[0].removeprefix("ViT-").split("-")
    width = {"B": 768, "L": 1024, "SO400M": 1152}[size]
    kind = "siglip2" if family.endswith("2") else "siglip"
    config = {"vision_config": {"hidden_size": width, "patch_size": int(patch), "image_size": int(image)}}
    assert _siglip_tag(kind, config) == variant
    assert tuple(variant.split("/")) in open_clip.list_pretrained()


# Tokenizers


@pytest.fixture
def with_own_tokenizer(tmp_path):
    """An open_clip folder whose text tower has a small vocabulary of its own."""
    text = {"vocab_size": 12, "hf_tokenizer_name": "org/words", "pool_type": "eos", "eos_id": 2}
    folder = write_config(tmp_path / "m", text)
    network = tiny_network(text_cfg=TINY_CONFIG["model_cfg"]["text_cfg"] | {"vocab_size": 12, "pool_type": "eos"})
    save_file(network.state_dict(), folder / "open_clip_model.safetensors")
    return folder


@pytest.mark.parametrize("files", [[], ["tokenizer_config.json"], ["special_tokens_map.json", "tokenizer_config.json"]])
def test_a_folder_without_its_tokenizer_names_it(with_own_tokenizer, tmp_path, files):
    write_tokenizer(tmp_path / "t")
    for name in files:
        (with_own_tokenizer / name).write_text("{}")
    with pytest.raises(
        ModelError, match=r"m has no tokenizer, .* asks for org/words; .*hf download org/words .*--local-dir"
    ):
        load_model(str(with_own_tokenizer))


def test_a_folder_with_its_tokenizer_is_loaded(with_own_tokenizer):
    model = load_model(str(write_tokenizer(with_own_tokenizer)))
    assert model.tokenize(["a red fox"])[0, :6].tolist() == [1, 4, 7, 9, 2, 0]
    assert model.encode_texts(TEXTS).shape == (3, 32)
    assert model.config["model_cfg"]["text_cfg"]["hf_tokenizer_name"] == "org/words"


def test_the_tokenizer_of_a_hub_model_comes_from_the_hub_s_cache(with_own_tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    write_hub_cache(tmp_path / "hub", "org/model", with_own_tokenizer)
    with pytest.raises(ModelError, match="the tokenizer org/words is not on this machine .*hf download org/words"):
        load_model("hf-hub:org/model")
    (tmp_path / "t").mkdir()
    write_hub_cache(tmp_path / "hub", "org/words", write_tokenizer(tmp_path / "t"))
    model = load_model("hf-hub:org/model")
    assert model.tokenize(["a red fox"])[0, :6].tolist() == [1, 4, 7, 9, 2, 0]
    assert not load_model("hf-hub:org/model")._model.is_loaded
    (tmp_path / "hub" / "models--org--model" / "refs" / "main").write_text("cd" * 20)
    with pytest.raises(ModelError, match="hf-hub:org/model is not on this machine"):
        load_model("hf-hub:org/model")


# Parts, several files, links


def test_weights_in_parts_are_loaded(tmp_path):
    network = tiny_network()
    write_parts(write_config(tmp_path / "m"), network.state_dict())
    model = load_model(str(tmp_path / "m"))
    assert same_weights(model, network)
    load_again = load_model(str(tmp_path / "m"))
    assert not load_again._model.is_loaded
    part = next((tmp_path / "m").glob("*-00002-of-00003.safetensors"))
    save_file({name: tensor + 1 for name, tensor in load_file(part).items()}, part)
    assert load_model(str(tmp_path / "m")).fingerprint != model.fingerprint


def test_a_missing_part_is_named(tmp_path):
    write_parts(write_config(tmp_path / "m"), tiny_network().state_dict())[1].unlink()
    with pytest.raises(ModelError, match="in 3 parts, and 1 are missing, the first open_clip_model-00002-of-00003"):
        load_model(str(tmp_path / "m"))


@pytest.mark.parametrize("extra", [["model.safetensors"], ["pytorch_model.bin", "z.pth"], ["a-00001-of-00002.bin"]])
def test_of_several_weights_files_the_one_that_is_used_is_said(tmp_path, caplog, extra):
    folder = write_model(tmp_path / "m")
    for name in extra:
        (folder / name).write_bytes(b"")
    with caplog.at_level(logging.INFO, "flip"):
        assert same_weights(load_model(str(folder)), tiny_network())
    more = " and 1 more" if len(extra) > 1 else ""
    assert f"open_clip_model.safetensors is used; {extra[0]}{more} in the same folder is not" in caplog.text


def test_links_whose_files_are_gone_are_named_with_their_repository(tiny_model, tmp_path):
    snapshot = write_hub_cache(tmp_path / "hub", "org/model", tiny_model)
    model = load_model(str(snapshot))
    assert load_model(str(tmp_path / "hub" / "models--org--model")).fingerprint == model.fingerprint
    blobs = tmp_path / "hub" / "models--org--model" / "blobs"
    for gone in ("open_clip_model.safetensors", "open_clip_config.json"):
        (blobs / gone).unlink()
        for path in (snapshot, tmp_path / "hub" / "models--org--model"):
            with pytest.raises(ModelError, match=f"{gone} is a link to a file that is gone .*hf download org/model"):
                load_model(str(path))
    link = tmp_path / "w.safetensors"
    link.symlink_to("nowhere")
    with pytest.raises(ModelError, match=r"w.safetensors is a link to a file that is gone \(nowhere\)"):
        load_model(str(link))


def test_folders_that_are_no_model_say_what_they_are(tiny_model, tmp_path):
    for folder, file in [
        ("diffusion", "model_index.json"),
        ("lora", "adapter_config.json"),
        ("sentence", "0_CLIPModel/config.json"),
        ("logs", "checkpoints/open_clip_config.json"),
        ("run", "epoch_1.pt"),
        ("weights", "w.safetensors"),
        ("empty", "notes.txt"),
    ]:
        (tmp_path / folder / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / folder / file).write_text("{}")
    for name, message in [
        ("diffusion", "is a diffusion model; pass it as --ckpt"),
        ("lora", r"holds low-rank additions \(LoRA\) and no model"),
        ("sentence", "0_CLIPModel/ in it may be one; pass --model .*sentence/0_CLIPModel"),
        ("logs", "checkpoints/ in it may be one; pass --model .*logs/checkpoints"),
        ("run", "it has epoch_1.pt but no open_clip_config.json; .*--model .*run/epoch_1.pt --arch ARCH"),
        ("weights", "it has w.safetensors but no open_clip_config.json"),
        ("empty", "is not a model folder: it has no open_clip_config.json; pass ARCH/TAG"),
        ("gone", "no such model: .*gone; pass a folder"),
    ]:
        with pytest.raises(ModelError, match=message):
            load_model(str(tmp_path / name))


def test_names_of_other_registries_are_told_where_they_belong():
    for name, message in [
        ("openai/clip-vit-base-patch32", "hf-hub:openai/clip-vit-base-patch32 if it is a repository"),
        ("ViT-B-32:openai", "did you mean ViT-B-32/openai"),
        ("ViT-B/32", "did you mean .*ViT-B-32/openai"),
    ]:
        with pytest.raises(ModelError, match=message):
            load_model(name)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "net.module.clip."])
def test_weights_that_were_saved_as_part_of_something_else(architectures, tmp_path, prefix):
    network = tiny_network()
    state = {prefix + name: tensor for name, tensor in network.state_dict().items()}
    torch.save({"state_dict": state | {"metric.total": torch.ones(1)}}, tmp_path / "last.ckpt")
    assert same_weights(load_model(str(tmp_path / "last.ckpt"), arch="tiny"), network)


def test_a_clip_model_with_clip_s_own_tokenizer_reads_texts_as_open_clip_does(tmp_path):
    from flip.clip.vocabulary import clip_vocabulary

    write_clip_model(tmp_path / "m")
    without = load_model(str(tmp_path / "m")).encode_texts(TEXTS)
    vocabulary, merges = clip_vocabulary()
    (tmp_path / "m" / "vocab.json").write_text(json.dumps(vocabulary))
    (tmp_path / "m" / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    marks = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
    settings = marks | {"unk_token": "<|endoftext|>", "tokenizer_class": "CLIPTokenizer"}
    (tmp_path / "m" / "tokenizer_config.json").write_text(json.dumps(settings))
    os.utime(tmp_path / "m" / "config.json", ns=(1, 1))
    model = load_model(str(tmp_path / "m"))
    assert type(model.tokenize._tokenize).__name__ == "HFTokenizer"
    assert model.tokenize.tokenizer is model.tokenize._tokenize.tokenizer
    assert model.encode_texts(TEXTS) == pytest.approx(without, abs=1e-6)


@pytest.mark.parametrize("content", [b"a\0b", b"../../elsewhere", b"\xff\xfe", b"", b"ab\ncd", b"a" * 300])
def test_a_hub_cache_whose_revision_is_damaged(tiny_model, tmp_path, monkeypatch, content):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    snapshot = write_hub_cache(tmp_path / "hub", "org/model", tiny_model)
    repository = snapshot.parent.parent
    (repository / "refs" / "main").write_bytes(content)
    with pytest.raises(ModelError, match=r"refs/main holds .* and not the name of a revision") as e:
        load_model(str(repository))
    assert "\n" not in str(e.value)
    with pytest.raises(ModelError, match="hf-hub:org/model is not on this machine"):
        load_model("hf-hub:org/model")
    assert load_model(str(snapshot)).dim == 32


def test_a_model_folder_with_a_folder_of_that_name_is_no_hub_cache(tmp_path):
    folder = write_model(tmp_path / "m")
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_bytes(b"a\0b")
    assert load_model(str(folder)).dim == 32
