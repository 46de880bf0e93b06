"""Build networks with open_clip from checked configurations, and put weights into them."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import asdict
from typing import TYPE_CHECKING

from flip.clip.fetch import first_line, offline, quiet
from flip.clip.folder import CONFIG_FILE
from flip.clip.network import LoadedModel
from flip.clip.sound import require_floating, require_size, require_values
from flip.clip.source import Source
from flip.clip.stage import staged
from flip.clip.state import read_state
from flip.clip.tokenizer import Tokenizer, read_tokenizer
from flip.device import parameters_without_memory
from flip.errors import ModelError
from flip.files import JsonObject
from flip.reading import read_json

if TYPE_CHECKING:
    from flip.clip.network import ClipNetwork
    from flip.clip.state import State


#: Making a network changes how torch makes parameters, for the whole process.
_ONE_AT_A_TIME = threading.RLock()


def build_source(name: str, source: Source) -> tuple[LoadedModel, JsonObject]:
    """Return a model with its weights, on the CPU in fp32 and in ``eval()``, and its whole ``preprocess_cfg``.

    Raises
    ------
    ModelError
        If configuration and weights do not fit each other, or a file is damaged; the message names it.
    """
    weights = source.weights_name + ("" if name == source.weights_name else f" of {name}")
    state = read_state(source.weights)
    damaged = (
        f"the weights {weights} cannot be loaded",
        "fetch the file again, or check that it belongs to the configuration",
    )
    with _blaming(*damaged):
        if source.convert is not None:
            state = source.convert(state)
    require_size(source.model_cfg, state, source.config, weights)
    # transformers ties parameters to each other, and they have to stay so.
    network, tokenize = _build(source, empty=source.text_tower is None)
    require_floating(network, state, weights)
    with _blaming(*damaged):
        _put_state(network, state)
    require_values(network, weights)
    return _finished(network, tokenize)


def build_random(source: Source, seed: int) -> tuple[LoadedModel, JsonObject]:
    """Return a model with random weights, on the CPU in fp32 and in ``eval()``, and its whole ``preprocess_cfg``."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _finished(*_build(source, empty=False))


def _build(source: Source, *, empty: bool) -> tuple[ClipNetwork, Tokenizer]:
    files = source.model_cfg, source.preprocess_cfg, source.tokenizer, source.text_tower
    tower = f" and {source.text_tower}" if source.text_tower else ""
    described = f"{source.config}{tower}: open_clip cannot make the network that model_cfg describes"
    with _ONE_AT_A_TIME, staged(*files) as folder, offline(), quiet():
        content = read_json(folder / CONFIG_FILE)
        with _blaming(described, "correct it, or fetch the file again"):
            network = _empty_network(content["model_cfg"]) if empty else _make_network(content["model_cfg"])
            _set_preprocessing(network, content["preprocess_cfg"])
        tokenize = Tokenizer(read_tokenizer(source, folder), source, _vocabulary(network))
        # A tokenizer may be read and unable to encode.
        tokenize(["a photo"])
        return network, tokenize


@contextlib.contextmanager
def _blaming(what: str, advice: str) -> Iterator[None]:
    """Raise errors of libraries as a ModelError of one line."""
    try:
        yield
    except ModelError:
        raise
    except Exception as e:
        raise ModelError(f"{what} ({_reason(e)}); {advice}") from e


def _vocabulary(network: ClipNetwork) -> int:
    return int(getattr(getattr(network, "text", network), "vocab_size", 0) or 0)


def _make_network(model_cfg: JsonObject) -> ClipNetwork:
    """Return the network of a configuration, as ``open_clip.create_model`` makes it without pretrained towers."""
    import open_clip

    vision, text = model_cfg["vision_cfg"], model_cfg["text_cfg"]
    if "timm_model_name" in vision:
        vision["timm_model_pretrained"] = False
    if "hf_model_name" in text:
        text["hf_model_pretrained"] = False
    custom = model_cfg.pop("custom_text", False) or "hf_model_name" in text
    of_two = open_clip.CoCa if "multimodal_cfg" in model_cfg else open_clip.CustomTextCLIP
    network: ClipNetwork = (of_two if custom else open_clip.CLIP)(**model_cfg)
    return network


def _empty_network(model_cfg: JsonObject) -> ClipNetwork:
    """Return the network with whatever memory holds as its parameters: every one of them is read from a file next."""
    import torch

    try:
        with parameters_without_memory():
            network = _make_network(deepcopy(model_cfg))
    except Exception:
        # Some towers of timm compute with their parameters while they are made.
        return _make_network(model_cfg)
    if any(buffer.device.type == "meta" for buffer in network.buffers()):
        return _make_network(model_cfg)
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            setattr(module, name, torch.nn.Parameter(torch.empty_like(parameter, device="cpu")))
    return network


def _set_preprocessing(network: ClipNetwork, preprocess_cfg: JsonObject) -> None:
    import open_clip
    from open_clip.transform import PreprocessCfg, merge_preprocess_dict

    whole = merge_preprocess_dict(asdict(PreprocessCfg()), preprocess_cfg)
    open_clip.set_model_preprocess_cfg(network, whole | {"size": network.visual.image_size})


def _finished(network: ClipNetwork, tokenize: Tokenizer) -> tuple[LoadedModel, JsonObject]:
    import open_clip
    from open_clip.transform import PreprocessCfg, image_transform_v2

    preprocess_cfg = open_clip.get_model_preprocess_cfg(network)
    preprocess = image_transform_v2(PreprocessCfg(**preprocess_cfg), is_train=False)

    context_length = int(getattr(tokenize, "context_length", 0) or 0)
    loaded = LoadedModel(network.eval().requires_grad_(False), preprocess, tokenize, context_length)
    return loaded, preprocess_cfg


def _put_state(network: ClipNetwork, state: State) -> None:
    """Put tensors into a network, every one of its own, with open_clip's corrections for older forms."""
    import open_clip.factory

    with _state_for_open_clip(state):
        open_clip.factory.load_checkpoint(network, "weights", strict=True)


@contextlib.contextmanager
def _state_for_open_clip(state: State) -> Iterator[None]:
    """Let open_clip take tensors that were read already: its corrections are not to be had without its reading."""
    import open_clip.factory

    read = open_clip.factory.load_state_dict
    open_clip.factory.load_state_dict = lambda *_, **__: state
    try:
        yield
    finally:
        open_clip.factory.load_state_dict = read


def _reason(error: Exception) -> str:
    """Return the part of torch's message on a state that does not fit which names the first tensor."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[1][:200] if len(lines) > 1 and lines[0].startswith("Error(s) in loading") else first_line(error)
