"""The architecture of bare weights, told by the shapes of their tensors."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flip.errors import ConfigError, ModelError, near_names

if TYPE_CHECKING:
    from flip.clip.state import State

#: Sizes of two plain towers: embedding; image width, depth, patch and side; text width, depth, length and vocabulary.
_Sizes = tuple[object, ...]


def architecture(name: str) -> dict[str, Any]:
    """Return open_clip's configuration of an architecture.

    Raises
    ------
    ConfigError
        If it is unknown; the message has near names.
    """
    import open_clip

    known = open_clip.list_models()
    if name not in known:
        raise ConfigError(
            f"--arch {name!r} is unknown{near_names(name, known)}; pass ARCH of an ARCH/TAG in `flip models`"
        )
    config: dict[str, Any] = open_clip.get_model_config(name)
    return config


def guess_architecture(state: State, file: Path, *, openai: bool) -> str:
    """Return the one architecture of open_clip whose sizes these weights have.

    Parameters
    ----------
    state : dict of tensors
    file : Path
        For messages.
    openai : bool
        The weights are in OpenAI's own form, and so were trained with QuickGELU, which shapes do not show.

    Raises
    ------
    ModelError
        If there is none, or more than one.
    """
    sizes = _sizes_of_state(state)
    if sizes is None:
        raise ModelError(f"{file} {_kind_of(state)}")
    fitting = [name for name, config in _plain_configs().items() if _sizes_of_config(config) == sizes]
    if openai:
        fitting = [name for name in fitting if name.endswith("-quickgelu")] or fitting
    if len(fitting) == 1:
        return fitting[0]
    if not fitting:
        raise ModelError(
            f"{file} fits no architecture of open_clip by its shapes (image tower {sizes[1]} wide and {sizes[2]} deep, "
            f"patch {sizes[3]}, {sizes[4]} pixels); put an open_clip_config.json beside it, or pass --arch ARCH"
        )
    raise ModelError(
        f"{file} fits {' and '.join(sorted(fitting))}, whose shapes are the same; pass --arch with the one it was "
        "trained as (quickgelu: OpenAI's, MetaCLIP's and DFN's)"
    )


def _plain_configs() -> dict[str, dict[str, Any]]:
    import open_clip

    configs = {name: open_clip.get_model_config(name) for name in open_clip.list_models()}
    return {name: config for name, config in configs.items() if _is_plain(config)}


def _is_plain(config: Mapping[str, Any]) -> bool:
    borrowed = "timm_model_name" in config["vision_cfg"] or "hf_model_name" in config["text_cfg"]
    return not borrowed and "multimodal_cfg" not in config


def _sizes_of_config(config: Mapping[str, Any]) -> _Sizes:
    vision, text = config["vision_cfg"], config["text_cfg"]
    layers = vision.get("layers", 12)
    convolutional = isinstance(layers, Sequence)
    return (
        config["embed_dim"],
        vision.get("width", 64 if convolutional else 768),
        tuple(layers) if convolutional else layers,
        None if convolutional else vision.get("patch_size", 16),
        vision.get("image_size", 224),
        text.get("width", 512),
        text.get("layers", 12),
        text.get("context_length", 77),
        text.get("vocab_size", 49408),
    )


def _sizes_of_state(state: State) -> _Sizes | None:
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    text = "text." if "text.token_embedding.weight" in shapes else ""
    embedding, positions = shapes.get(f"{text}token_embedding.weight"), shapes.get(f"{text}positional_embedding")
    vision = _convolutional(shapes) if "visual.layer1.0.conv1.weight" in shapes else _transformer(shapes)
    if embedding is None or positions is None or vision is None:
        return None
    depth = _count(shapes, rf"{re.escape(text)}transformer\.resblocks\.(\d+)\.")
    return (*vision, embedding[1], depth, positions[0], embedding[0])


def _transformer(shapes: Mapping[str, tuple[int, ...]]) -> _Sizes | None:
    first, positions, projection = (
        shapes.get(f"visual.{name}") for name in ("conv1.weight", "positional_embedding", "proj")
    )
    if first is None or positions is None or projection is None or len(first) != 4:
        return None
    patch = first[-1]
    side = math.isqrt(positions[0] - ("visual.class_embedding" in shapes))
    return projection[1], first[0], _count(shapes, r"visual\.transformer\.resblocks\.(\d+)\."), patch, patch * side


def _convolutional(shapes: Mapping[str, tuple[int, ...]]) -> _Sizes | None:
    first, positions, projection = (
        shapes.get(f"visual.{name}")
        for name in ("conv3.weight", "attnpool.positional_embedding", "attnpool.c_proj.weight")
    )
    if first is None or positions is None or projection is None:
        return None
    layers = tuple(_count(shapes, rf"visual\.layer{i}\.(\d+)\.") for i in range(1, 5))
    return projection[0], first[0], layers, None, 32 * math.isqrt(positions[0] - 1)


def _count(shapes: Mapping[str, tuple[int, ...]], pattern: str) -> int:
    return len({match[1] for name in shapes if (match := re.match(pattern, name))})


def _kind_of(state: State) -> str:
    """Return what else weights are, and what to do with them."""
    names = list(state)
    if any(name.startswith(("model.diffusion_model.", "down_blocks.", "first_stage_model.")) for name in names):
        return "holds a diffusion model; pass it as --ckpt, and a CLIP model as --model"
    if any("lora" in name for name in names):
        return "holds low-rank additions (LoRA) and no model; pass the model that they were made for"
    if any(name.startswith("vision_model.") for name in names):
        return "is transformers' model without its config.json; put that file beside it"
    if any(name.startswith("visual.trunk.") for name in names):
        return "has an image tower of timm, which shapes do not tell; pass --arch ARCH"
    return f"holds no CLIP model (its first tensor is {names[0]}); pass --arch ARCH if it is one of open_clip's"
