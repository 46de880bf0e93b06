"""Build networks with open_clip from checked configurations, and put weights into them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from flip.clip.fetch import first_line, offline, quiet
from flip.clip.network import LoadedModel
from flip.clip.source import Source
from flip.clip.stage import staged
from flip.clip.state import read_state
from flip.errors import ModelError

if TYPE_CHECKING:
    from flip.clip.state import State


def build_source(name: str, source: Source) -> tuple[LoadedModel, dict[str, Any]]:
    """Return a model with its weights, on the CPU in fp32 and in ``eval()``, and its whole ``preprocess_cfg``.

    Raises
    ------
    ModelError
        If configuration and weights do not fit each other, or the weights are damaged.
    """
    import torch

    weights = source.weights_name + ("" if name == source.weights_name else f" of {name}")
    state = read_state(source.weights)
    if source.convert is not None:
        state = source.convert(state)
    try:
        network, tokenize = _build(source)
        _put_state(network, state)
    except ModelError:
        raise
    except Exception as e:
        raise ModelError(
            f"the weights {weights} cannot be loaded ({_reason(e)}); "
            "fetch the file again, or check that it belongs to the configuration"
        ) from e
    if not all(bool(torch.isfinite(p).all()) for p in network.parameters()):
        raise ModelError(f"the weights {weights} hold NaN or infinity; take an earlier checkpoint")
    return _finished(network, tokenize)


def build_random(source: Source, seed: int) -> tuple[LoadedModel, dict[str, Any]]:
    """Return a model with random weights, on the CPU in fp32 and in ``eval()``, and its whole ``preprocess_cfg``."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network, tokenize = _build(source)
    return _finished(network, tokenize)


def _build(source: Source) -> tuple[Any, Any]:
    import open_clip

    with (
        staged(source.model_cfg, source.preprocess_cfg, source.tokenizer, source.text_tower) as identifier,
        offline(),
        quiet(),
    ):
        network = open_clip.create_model(identifier, load_weights=False, device="cpu", pretrained_text=False)
        return network, open_clip.get_tokenizer(identifier)


def _finished(network: Any, tokenize: Any) -> tuple[LoadedModel, dict[str, Any]]:
    import open_clip
    from open_clip.transform import PreprocessCfg, image_transform_v2

    preprocess_cfg = open_clip.get_model_preprocess_cfg(network)
    preprocess = image_transform_v2(PreprocessCfg(**preprocess_cfg), is_train=False)
    return LoadedModel(network.eval().requires_grad_(False), preprocess, tokenize), preprocess_cfg


def _put_state(network: Any, state: State) -> None:
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
