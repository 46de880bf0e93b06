"""The text tower of an open_clip model as the text encoder of a diffusion model, as Stable Diffusion has CLIP's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open

from flip.clip.folder import CONFIG_FILE, WEIGHTS_FILE
from flip.errors import ConfigError
from flip.files import JsonObject
from flip.reading import read_json, require_plain

if TYPE_CHECKING:
    from flip.diffusion.pipeline import Component

#: open_clip's default.
_HEADS = 8

#: open_clip's names within a block, and transformers'.
_BLOCK = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}


def read_text_tower(folder: Path, context_length: int | None = None) -> Component:
    """Read the text transformer of an open_clip folder as a ``transformers.CLIPTextModel``, in float32.

    Parameters
    ----------
    folder : Path
        Holds ``open_clip_config.json`` and ``open_clip_model.safetensors``, as ``flip finetune`` writes them.
    context_length : int, optional
        Tokens of a text; places beyond the tower's own begin as its last one. The tower's own without it.

    Raises
    ------
    ConfigError
        If the folder holds no such model, or its text tower is of another kind.
    """
    try:
        model_cfg = read_json(folder / CONFIG_FILE)["model_cfg"]
        return _make_tower(model_cfg, _text_weights(folder), context_length)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError) as e:
        reason = " ".join(f"{type(e).__name__}: {e}".split())[:200]
        raise ConfigError(
            f"{folder} is no open_clip model with a text transformer of its own ({reason}); it needs {CONFIG_FILE} and "
            f"{WEIGHTS_FILE}, as flip finetune writes them"
        ) from e


def _make_tower(model_cfg: JsonObject, weights: Mapping[str, torch.Tensor], context_length: int | None) -> Component:
    from transformers import CLIPTextConfig, CLIPTextModel

    if model_cfg["text_cfg"].get("no_causal_mask"):
        raise ValueError("its texts are read in both directions")
    layers = len({name.split(".")[2] for name in weights if name.startswith("transformer.resblocks.")})
    state, places = rename_open_clip(weights, layers), weights["positional_embedding"]
    words, width = weights["token_embedding.weight"].shape
    length = context_length or len(places)
    config = CLIPTextConfig(
        vocab_size=words,
        hidden_size=width,
        intermediate_size=len(weights["transformer.resblocks.0.mlp.c_fc.bias"]),
        num_hidden_layers=layers,
        num_attention_heads=model_cfg["text_cfg"].get("heads", _HEADS),
        max_position_embeddings=length,
        hidden_act="quick_gelu" if model_cfg.get("quick_gelu") else "gelu",
        bos_token_id=words - 2,
        eos_token_id=words - 1,
        pad_token_id=0,
    )
    tower = CLIPTextModel(config)
    more = places[-1:].expand(max(0, length - len(places)), -1)
    state["embeddings.position_embedding.weight"] = torch.cat([places[:length], more])  # (length, width)
    # Some versions of transformers have the tower's parts below "text_model", and some at the top.
    below = "text_model." if any(name.startswith("text_model.") for name in tower.state_dict()) else ""
    missing, _ = tower.load_state_dict({below + name: value for name, value in state.items()}, strict=False)
    assert all(name.endswith("position_ids") for name in missing), missing
    return tower


def _text_weights(folder: Path) -> dict[str, torch.Tensor]:
    """Return the weights of the text side, under the names they have in a model that is not of two towers apart."""
    require_plain(folder / WEIGHTS_FILE)
    with safe_open(folder / WEIGHTS_FILE, "pt") as file:
        names = [name for name in file.keys() if not name.startswith("visual.")]  # noqa: SIM118
        return {name.removeprefix("text."): file.get_tensor(name).float() for name in names}


def rename_open_clip(weights: Mapping[str, torch.Tensor], layers: int) -> dict[str, torch.Tensor]:
    """Return the weights of a text transformer under transformers' names.

    Parameters
    ----------
    weights : mapping
        Under open_clip's names.
    layers : int
        Blocks to take, from the first.

    Raises
    ------
    ValueError, KeyError
        If a block holds something else than CLIP's, or a weight is missing.
    """
    known = {f"{before}.{kind}" for before in _BLOCK for kind in ("weight", "bias")}
    known |= {f"attn.in_proj_{kind}" for kind in ("weight", "bias")}
    for name in weights:
        if name.startswith("transformer.") and name.split(".", 3)[-1] not in known:
            raise ValueError(f"{name} is in no text transformer of CLIP's kind")
    state = {"embeddings.token_embedding.weight": weights["token_embedding.weight"]}
    for kind in ("weight", "bias"):
        state[f"final_layer_norm.{kind}"] = weights[f"ln_final.{kind}"]
        for layer in range(layers):
            old, new = f"transformer.resblocks.{layer}.", f"encoder.layers.{layer}."
            for before, after in _BLOCK.items():
                state[f"{new}{after}.{kind}"] = weights[f"{old}{before}.{kind}"]
            parts = weights[f"{old}attn.in_proj_{kind}"].chunk(3)
            for name, part in zip(("q_proj", "k_proj", "v_proj"), parts, strict=True):
                state[f"{new}self_attn.{name}.{kind}"] = part
    return state
