"""A model folder runs no code, asks nothing and connects to nothing, whatever its configurations say."""

import builtins
import json
import os
import socket

import open_clip
import pytest
import torch
from safetensors.torch import load_file, save_file

from flip.clip.checks import check_model_cfg
from flip.clip.model import load_model, new_model
from flip.clip.source import _known_keys
from flip.errors import ConfigError, ModelError
from tests.clip.tiny import write_clip_model, write_config, write_hub_cache, write_tokenizer
from tests.conftest import TINY_CONFIG, write_model


@pytest.fixture(autouse=True)
def no_connection_and_no_prompt(monkeypatch):
    """Without HF_HUB_OFFLINE: what must not be done is counted, not forbidden by the environment."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    done = []

    def connect(*address):
        done.append(address)
        raise OSError("no connection in this test")

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(socket, "getaddrinfo", connect)
    monkeypatch.setattr(builtins, "input", lambda *a: done.append(a) or "y")
    yield
    assert done == []


@pytest.fixture
def was_run(tmp_path):
    """A file that the models' code would write."""
    return tmp_path / "was-run"


def write_code(folder, was_run):
    """Python that transformers would import."""
    (folder / "evil.py").write_text(f"open({str(was_run)!r}, 'w')\nclass T: pass\n")


def refused(name, message, was_run, error=ModelError):
    with pytest.raises(error, match=message) as e:
        load_model(str(name)) if error is ModelError else new_model(name, 0)
    assert not was_run.exists()
    assert "\n" not in str(e.value)


def with_tokenizer(folder, **text):
    text = {"vocab_size": 12, "hf_tokenizer_name": "org/words", **text}
    write_config(folder, text)
    known = {"vocab_size": 12}
    network = open_clip.CLIP(**TINY_CONFIG["model_cfg"] | {"text_cfg": TINY_CONFIG["model_cfg"]["text_cfg"] | known})
    save_file(network.state_dict(), folder / "open_clip_model.safetensors")
    return write_tokenizer(folder)


AUTO_MAPS = [
    {"AutoTokenizer": ["evil.T", None]},
    {"AutoTokenizer": ["evil.T", "evil.T"], "AutoConfig": "evil.T"},
    ["evil.T", None],
    {"AutoTokenizer": "org/elsewhere--evil.T"},
]


@pytest.mark.parametrize("auto_map", AUTO_MAPS)
@pytest.mark.parametrize("kwargs", [{}, {"tokenizer_kwargs": {"clean": "lower"}}])
def test_a_tokenizer_s_auto_map_is_refused(tmp_path, was_run, auto_map, kwargs):
    folder = with_tokenizer(tmp_path / "m", **kwargs)
    write_code(folder, was_run)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"auto_map": auto_map}))
    refused(folder, "tokenizer_config.json has auto_map, which would run code", was_run)


def test_an_auto_map_in_a_config_beside_the_tokenizer_is_refused(tmp_path, was_run):
    folder = with_tokenizer(tmp_path / "m")
    write_code(folder, was_run)
    (folder / "config.json").write_text(json.dumps({"model_type": "x", "auto_map": {"AutoConfig": "evil.T"}}))
    refused(folder, "config.json has auto_map", was_run)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ({"tokenizer_kwargs": {"trust_remote_code": True}}, "has trust_remote_code, which would run code"),
        ({"tokenizer_kwargs": {"tokenizer_file": "/etc/passwd"}}, "tokenizer_kwargs has 'tokenizer_file'"),
        ({"tokenizer_kwargs": {"bpe_path": "/etc/passwd"}}, "tokenizer_kwargs has 'bpe_path'"),
        ({"tokenizer_kwargs": {"clean": {"a": 1}}}, r"tokenizer_kwargs.clean holds a dict"),
        ({"tokenizer_kwargs": ["trust_remote_code"]}, "tokenizer_kwargs is a list"),
        ({"cache_dir": "/tmp"}, "text_cfg has 'cache_dir', which open_clip does not know"),
        ({"hf_model_name": "."}, r"hf_model_name is '.'; only the name of a repository"),
        ({"hf_model_name": "/tmp/m"}, "only the name of a repository"),
        ({"hf_model_name": "../m"}, "only the name of a repository"),
        ({"hf_model_name": "a/b/c"}, "only the name of a repository"),
        ({"hf_model_name": ["a"]}, "only the name of a repository"),
        ({"hf_model_name": "org/absent"}, "the text tower's configuration org/absent is not on this machine"),
        ({"layers": 10**9}, "text_cfg.layers is 1000000000; at most 512 is allowed"),
        ({"width": float("nan")}, "text_cfg.width is nan; at most 65,536 is allowed"),
    ],
)
def test_text_towers_that_reach_elsewhere_are_refused(tmp_path, was_run, text, message):
    folder = write_model(tmp_path / "m")
    write_config(folder, text)
    write_code(folder, was_run)
    refused(folder, message, was_run)
    refused(folder / "open_clip_config.json", message, was_run, ConfigError)


@pytest.mark.parametrize("name", ["hf-hub:org/evil", "local-dir:/tmp/m", "../x", ".."])
def test_image_towers_that_reach_elsewhere_are_refused(tmp_path, was_run, name):
    folder = write_model(tmp_path / "m")
    write_config(folder, vision={"timm_model_name": name})
    refused(folder, "timm_model_name is .* only the name of an architecture", was_run)


def test_a_text_tower_s_configuration_from_the_hub_runs_no_code(tmp_path, was_run, monkeypatch):
    """Also where a folder of the text tower's name stands in the current folder, which transformers would prefer."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    folder = write_model(tmp_path / "m")
    write_config(folder, {"hf_model_name": "org/tower", "hf_tokenizer_name": "org/words", "hf_proj_type": "linear"})
    write_tokenizer(folder)
    config = {"model_type": "roberta", "auto_map": {"AutoConfig": "evil.T", "AutoModel": "evil.T"}}
    for tower in (tmp_path / "tower", tmp_path / "cwd" / "org" / "tower"):
        tower.mkdir(parents=True)
        (tower / "config.json").write_text(json.dumps(config))
        write_code(tower, was_run)
    write_hub_cache(tmp_path / "hub", "org/tower", tmp_path / "tower")
    monkeypatch.chdir(tmp_path / "cwd")
    refused(folder, "config.json has auto_map, which would run code", was_run)


def test_hub_models_are_checked_as_folders_are(tmp_path, was_run, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    write_hub_cache(
        tmp_path / "hub", "org/kwargs", _hostile(tmp_path / "a", {"tokenizer_kwargs": {"trust_remote_code": 1}})
    )
    refused("hf-hub:org/kwargs", "has trust_remote_code", was_run)
    write_hub_cache(tmp_path / "hub", "org/tower", _hostile(tmp_path / "b", {"hf_model_name": "/tmp"}))
    refused("hf-hub:org/tower", "only the name of a repository", was_run)
    words = tmp_path / "words"
    words.mkdir()
    write_tokenizer(words)
    (words / "tokenizer_config.json").write_text(json.dumps({"auto_map": ["evil.T", None]}))
    write_code(words, was_run)
    write_hub_cache(tmp_path / "hub", "org/words", words)
    write_hub_cache(tmp_path / "hub", "org/model", _hostile(tmp_path / "c", {"hf_tokenizer_name": "org/words"}))
    refused("hf-hub:org/model", "tokenizer_config.json has auto_map", was_run)
    write_hub_cache(tmp_path / "hub", "org/path", _hostile(tmp_path / "d", {"hf_tokenizer_name": str(words)}))
    refused("hf-hub:org/path", "only the name of a repository", was_run)
    refused("hf-hub:../m", "only the name of a repository", was_run)


def _hostile(folder, text):
    write_model(folder)
    return write_config(folder, text)


def test_a_folder_of_transformers_runs_no_code(tmp_path, was_run):
    write_clip_model(tmp_path / "m")
    write_code(tmp_path / "m", was_run)
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    for changed in (
        {"auto_map": {"AutoModel": "evil.T"}},
        {"text_config": config["text_config"] | {"auto_map": {"AutoModel": "evil.T"}}},
        {"custom_pipelines": {"x": {"impl": "evil.T"}}},
    ):
        (tmp_path / "m" / "config.json").write_text(json.dumps(config | changed))
        refused(tmp_path / "m", "config.json has (auto_map|custom_pipelines), which would run code", was_run)


@pytest.mark.parametrize("content", ["[" * 100_000, "[1]", "{", "", "\ufeff{", '"x"', "null", '{"model_cfg": 3}'])
def test_odd_configurations_are_one_line(tmp_path, was_run, content):
    folder = write_model(tmp_path / "m")
    (folder / "open_clip_config.json").write_text(content)
    refused(folder, "open_clip_config.json", was_run)


def test_a_configuration_that_is_no_file_is_not_waited_for(tmp_path, was_run):
    folder = write_model(tmp_path / "m")
    (folder / "open_clip_config.json").unlink()
    os.mkfifo(folder / "open_clip_config.json")
    refused(folder, "is not a model folder", was_run)


def test_local_folders_make_no_connection(tmp_path, monkeypatch):
    """Tokenizer and text tower of transformers, with names of repositories in the configuration."""
    from transformers import AutoModel, RobertaConfig

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    tower_config = RobertaConfig(**sizes, vocab_size=12, max_position_embeddings=20, pad_token_id=0)
    tower_config.save_pretrained(str(tmp_path / "tower"))
    write_hub_cache(tmp_path / "hub", "org/tower", tmp_path / "tower")
    folder = tmp_path / "m"
    text = {"hf_model_name": "org/tower", "hf_tokenizer_name": "org/words", "hf_proj_type": "linear"}
    write_config(folder, text | {"hf_pooler_type": "mean_pooler"})
    write_tokenizer(folder)
    random = new_model(folder / "open_clip_config.json", 3)
    save_file(random.network.state_dict(), folder / "open_clip_model.safetensors")
    model = load_model(str(folder))
    names = load_file(folder / "open_clip_model.safetensors").keys()
    assert any(name.startswith("text.transformer.encoder.layer") for name in names)
    assert (model.encode_texts(["a red fox"]) == random.encode_texts(["a red fox"])).all()
    assert isinstance(model.network.text.transformer, type(AutoModel.from_config(tower_config)))


def test_every_configuration_of_open_clip_passes(tmp_path):
    for name in open_clip.list_models():
        config = open_clip.get_model_config(name)
        assert check_model_cfg(config, tmp_path, **_known_keys()) is config


def test_pickled_weights_are_read_as_weights_alone(tmp_path, was_run):
    class Runs:
        def __reduce__(self):
            return open, (str(was_run), "w")

    folder = write_model(tmp_path / "m")
    (folder / "open_clip_model.safetensors").unlink()
    for content in ({"x": Runs()}, {"state_dict": {"x": torch.ones(1)}, "args": Runs()}, Runs()):
        torch.save(content, folder / "open_clip_pytorch_model.bin")
        refused(folder, "names (io|_io|builtins).open, which weights never need", was_run)
