"""Weights and tokenizers that do not do are refused, and the message names the file that is to be mended."""

import json
import struct

import open_clip
import pytest
import torch
from safetensors.torch import load_file, save_file

from flip.clip.model import load_model
from flip.clip.sound import least_parameters
from flip.errors import ModelError
from tests.clip.tiny import tiny_network, write_config, write_tokenizer
from tests.conftest import TINY_CONFIG, write_model

WEIGHTS = "open_clip_model.safetensors"


def refused(folder, message, *, encode=()):
    with pytest.raises(ModelError, match=message) as e:
        load_model(str(folder)).encode_texts(list(encode) or ["a"])
    assert "\n" not in str(e.value)
    return str(e.value)


def rewrite_header(file, change):
    """Change the header of a safetensors file, and leave its tensors' bytes."""
    content = file.read_bytes()
    size = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + size])
    change(header)
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + size :])


@pytest.mark.parametrize("dtype", ["I32", "U32"])
@pytest.mark.parametrize("name", ["logit_scale", "visual.proj", "token_embedding.weight", "ln_final.bias"])
def test_floating_point_numbers_that_are_called_whole(tmp_path, name, dtype):
    folder = write_model(tmp_path / "m")
    rewrite_header(folder / WEIGHTS, lambda header: header[name].update(dtype=dtype))
    refused(folder, rf"{WEIGHTS} of .* hold u?int32 as {name}; parameters are floating-point numbers")


def test_whole_numbers_that_are_no_parameters_are_read(tmp_path):
    folder = write_config(tmp_path / "m", vision={"layers": [1, 1, 1, 1], "head_width": 64, "patch_size": None})
    network = open_clip.CLIP(**json.loads((folder / "open_clip_config.json").read_text())["model_cfg"])
    state = network.state_dict()
    assert any(not tensor.is_floating_point() for tensor in state.values())
    save_file(state, folder / WEIGHTS)
    assert load_model(str(folder)).dim == 32


@pytest.mark.parametrize("share", [1.0, 0.6])
def test_weights_that_are_zeros(tmp_path, share):
    folder = write_model(tmp_path / "m")
    state = load_file(folder / WEIGHTS)
    matrices = [name for name, tensor in state.items() if tensor.ndim > 1]
    names = matrices[: round(len(matrices) * share)] if share < 1 else list(state)
    save_file(state | {name: torch.zeros_like(state[name]) for name in names}, folder / WEIGHTS)
    refused(folder, rf"{WEIGHTS} of .* hold nothing but zeros in \d+ of {len(matrices)} matrices; fetch the file again")


def test_some_matrices_of_zeros_are_read(tmp_path):
    folder = write_model(tmp_path / "m")
    state = load_file(folder / WEIGHTS)
    save_file(state | {"text_projection": torch.zeros_like(state["text_projection"])}, folder / WEIGHTS)
    assert load_model(str(folder)).dim == 32


@pytest.mark.parametrize(
    "change",
    [
        {"vision": {"layers": 512, "width": 65_536}},
        {"text": {"layers": 512, "width": 65_536}},
        {"vision": {"layers": [4, 4, 4, 4], "width": 65_536}},
        {"text": {"vocab_size": 4_000_000}},
        {"multimodal_cfg": {"layers": 512, "width": 4096}, "custom_text": True},
    ],
)
def test_a_network_larger_than_its_weights_is_not_made(tmp_path, change, monkeypatch):
    folder = write_model(tmp_path / "m")
    write_config(folder, **change)
    monkeypatch.setattr("flip.clip.build._make_network", lambda _: pytest.fail("it was made"))
    refused(folder, r"open_clip_config.json describes a network of [\d,]+ parameters or more, and the weights .* hold")


@pytest.mark.parametrize("arch", ["ViT-B-32", "RN50", "coca_ViT-B-32", "ViT-B-16-SigLIP", "roberta-ViT-B-32"])
def test_the_least_number_of_parameters_is_no_more_than_there_are(arch, monkeypatch):
    config = open_clip.get_model_config(arch)
    least = least_parameters(config)
    if "hf_model_name" in config["text_cfg"]:
        config["text_cfg"] = {}
    with torch.device("meta"):
        kind = open_clip.CoCa if "multimodal_cfg" in config else open_clip.CustomTextCLIP
        config.pop("custom_text", None)
        network = kind(**config)
    assert 0 < least <= sum(parameter.numel() for parameter in network.parameters())


# The file that is to blame


@pytest.mark.parametrize(
    ("vision", "reason"),
    [
        ({"timm_model_name": "resnet0"}, "Unknown model"),
        ({"timm_model_name": "vit_tiny_patch16_224", "timm_pool": "x"}, ""),
        ({"pool_type": "tok", "attentional_pool": "x"}, ""),
    ],
)
def test_a_configuration_that_makes_no_network_is_named(tmp_path, vision, reason):
    folder = write_model(tmp_path / "m")
    write_config(folder, vision=vision)
    message = refused(folder, rf"open_clip_config.json: open_clip cannot make the network .*{reason}")
    assert WEIGHTS not in message


@pytest.fixture
def words(tmp_path):
    """A model folder with a tokenizer of twelve words."""
    folder = write_config(tmp_path / "m", {"vocab_size": 12, "hf_tokenizer_name": "org/words"})
    network = tiny_network(text_cfg=TINY_CONFIG["model_cfg"]["text_cfg"] | {"vocab_size": 12})
    save_file(network.state_dict(), folder / WEIGHTS)
    return write_tokenizer(folder)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("tokenizer.json", "{", "tokenizer.json is not a configuration"),
        ("tokenizer.json", "[1]", "tokenizer.json holds a list"),
        ("tokenizer.json", "{}", "tokenizer.json is not a tokenizer"),
        ("tokenizer.json", '{"version": "1.0", "model": {"type": "x"}}', "tokenizer.json is not a tokenizer"),
        ("tokenizer_config.json", '{"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": 7}', "tokenizer"),
    ],
)
def test_a_damaged_tokenizer_is_named(words, file, content, message):
    (words / file).write_text(content)
    assert WEIGHTS not in refused(words, message)


def test_a_tokenizer_that_cannot_pad_is_named(words):
    config = json.loads((words / "tokenizer_config.json").read_text())
    del config["pad_token"]
    (words / "tokenizer_config.json").write_text(json.dumps(config))
    refused(words, r"the tokenizer in .*\(tokenizer.json, tokenizer_config.json\) cannot encode texts .*padding token")


@pytest.mark.parametrize(("word", "token"), [("fox", 12), ("bird", 10**6), ("a", 49_407)])
def test_a_tokenizer_of_another_vocabulary_is_named(words, word, token):
    content = json.loads((words / "tokenizer.json").read_text())
    content["model"]["vocab"][word] = token
    (words / "tokenizer.json").write_text(json.dumps(content))
    refused(words, rf"the tokenizer in .* gives token {token}, and the model's vocab_size is 12; put", encode=[word])


def test_clip_s_own_tokenizer_needs_clip_s_vocabulary(words):
    write_config(words, {"vocab_size": 12})
    refused(words, r"CLIP's own tokenizer, .*open_clip_config.json, gives token 49407, and .*vocab_size is 12")
