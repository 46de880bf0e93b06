"""transformers' CLIPModel as open_clip's CLIP: the same network under other names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from flip.errors import ModelError
from flip.files import JsonObject

if TYPE_CHECKING:
    from flip.clip.state import State

#: Activations by transformers' names; True is open_clip's ``quick_gelu``.
_ACTIVATIONS = {"quick_gelu": True, "gelu": False}

_TEXT_DEFAULTS = {
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "max_position_embeddings": 77,
    "vocab_size": 49408,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
    "eos_token_id": 49407,
}
_VISION_DEFAULTS = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 224,
    "patch_size": 32,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
    "num_channels": 3,
}

_RENAMED = (
    (r"^vision_model\.embeddings\.class_embedding$", "visual.class_embedding"),
    (r"^vision_model\.embeddings\.patch_embedding\.", "visual.conv1."),
    (r"^vision_model\.embeddings\.position_embedding\.weight$", "visual.positional_embedding"),
    (r"^vision_model\.pre_layrnorm\.", "visual.ln_pre."),
    (r"^vision_model\.post_layernorm\.", "visual.ln_post."),
    (r"^vision_model\.encoder\.layers\.", "visual.transformer.resblocks."),
    (r"^text_model\.embeddings\.token_embedding\.", "token_embedding."),
    (r"^text_model\.embeddings\.position_embedding\.weight$", "positional_embedding"),
    (r"^text_model\.final_layer_norm\.", "ln_final."),
    (r"^text_model\.encoder\.layers\.", "transformer.resblocks."),
    (r"\.layer_norm([12])\.", r".ln_\1."),
    (r"\.mlp\.fc1\.", ".mlp.c_fc."),
    (r"\.mlp\.fc2\.", ".mlp.c_proj."),
    (r"\.self_attn\.out_proj\.", ".attn.out_proj."),
)


def clip_config(config: JsonObject, file: Path) -> JsonObject:
    """Return the ``model_cfg`` of transformers' ``config.json``.

    Raises
    ------
    ModelError
        If it is not CLIPModel's, or has what open_clip's CLIP has not; the message says what to pass instead.
    """
    kind = config.get("model_type")
    if kind != "clip":
        raise ModelError(_unsupported(kind, config, file))
    text, vision = (
        _settings(config, "text_config", _TEXT_DEFAULTS),
        _settings(config, "vision_config", _VISION_DEFAULTS),
    )
    activations = {text["hidden_act"], vision["hidden_act"]}
    if len(activations) != 1 or not activations <= _ACTIVATIONS.keys() or vision["num_channels"] != 3:
        raise ModelError(
            f"{file}: a CLIPModel with activations {', '.join(sorted(map(str, activations)))} and "
            f"{vision['num_channels']} channels has no counterpart in open_clip; pass one with quick_gelu or gelu"
        )
    return {
        "embed_dim": int(config.get("projection_dim", 512)),
        "quick_gelu": _ACTIVATIONS[activations.pop()],
        "vision_cfg": {
            "image_size": vision["image_size"],
            "patch_size": vision["patch_size"],
            "head_width": vision["hidden_size"] // vision["num_attention_heads"],
            **_tower(vision),
        },
        "text_cfg": {
            "context_length": text["max_position_embeddings"],
            "vocab_size": text["vocab_size"],
            "heads": text["num_attention_heads"],
            **_tower(text),
            **_pooling(text),
        },
    }


def preprocess_config(preprocessor: JsonObject) -> JsonObject:
    """Return open_clip's ``preprocess_cfg`` of transformers' ``preprocessor_config.json``, empty without one."""
    if not preprocessor:
        return {}
    names = {0: "nearest", 2: "bilinear", 3: "bicubic"}
    found = {
        "mean": preprocessor.get("image_mean"),
        "std": preprocessor.get("image_std"),
        "interpolation": names.get(preprocessor.get("resample", 3), "bicubic"),
        "resize_mode": "shortest" if preprocessor.get("do_center_crop", True) else "squash",
    }
    return {key: value for key, value in found.items() if value is not None}


def clip_state(state: State) -> State:
    """Return the tensors of a CLIPModel under open_clip's names."""
    import torch

    renamed = {}
    for name, tensor in state.items():
        if name.endswith("position_ids") or re.search(r"\.self_attn\.[kv]_proj\.", name):
            continue
        new = name
        for pattern, replacement in _RENAMED:
            new = re.sub(pattern, replacement, new)
        if name in ("visual_projection.weight", "text_projection.weight"):
            renamed["visual.proj" if name.startswith("visual") else "text_projection"] = tensor.T  # (width, d)
        elif ".self_attn.q_proj." in name:
            parts = [state[name.replace("q_proj", f"{part}_proj")] for part in "qkv"]
            new = new.replace(".self_attn.q_proj.weight", ".attn.in_proj_weight")
            renamed[new.replace(".self_attn.q_proj.bias", ".attn.in_proj_bias")] = torch.cat(parts)  # (3 · width, …)
        else:
            renamed[new] = tensor
    return renamed


def _settings(config: JsonObject, part: str, defaults: JsonObject) -> JsonObject:
    given = config.get(part) or config.get(f"{part}_dict") or {}
    if not isinstance(given, dict):
        raise TypeError(f"{part} is a {type(given).__name__}")
    return defaults | {key: value for key, value in given.items() if key in defaults and value is not None}


def _tower(settings: JsonObject) -> JsonObject:
    eps = settings["layer_norm_eps"]
    return {
        "width": settings["hidden_size"],
        "layers": settings["num_hidden_layers"],
        "mlp_ratio": settings["intermediate_size"] / settings["hidden_size"],
        **({} if eps == 1e-5 else {"norm_kwargs": {"eps": eps}}),
    }


def _pooling(text: JsonObject) -> JsonObject:
    """transformers takes the first end of text; 2 means that the end of text is the highest id, as in CLIP's own."""
    end = text["eos_token_id"]
    return {} if end in (2, text["vocab_size"] - 1) else {"pool_type": "eos", "eos_id": end}


def _unsupported(kind: object, config: JsonObject, file: Path) -> str:
    of_type = f"model of type {kind!r}" if kind else "model of no type"
    name = next(iter(config.get("architectures") or []), None) or of_type
    if kind in ("siglip", "siglip2"):
        advice = f"pass the same weights in open_clip's form, such as --model {_siglip_tag(str(kind), config)}"
    elif kind in ("clip_vision_model", "clip_text_model"):
        advice = "it is one tower of two; pass the whole CLIPModel"
    else:
        advice = "pass ARCH/TAG of open_clip, or a folder of open_clip or of transformers' CLIPModel"
    return f"{file.parent} is transformers' {name}, which flip does not read; {advice}"


def _siglip_tag(kind: str, config: JsonObject) -> str:
    """Return the name in open_clip's registry of the published SigLIP of this size."""
    vision = config.get("vision_config") or {}
    size = {768: "ViT-B", 1024: "ViT-L", 1152: "ViT-SO400M", 1536: "ViT-gopt"}.get(
        vision.get("hidden_size", 768), "ViT-B"
    )
    two = "2" if kind == "siglip2" or (config.get("text_config") or {}).get("vocab_size") == 256000 else ""
    image = vision.get("image_size", 224)
    end = "" if image == 224 else f"-{image}"
    return f"{size}-{vision.get('patch_size', 16)}-SigLIP{two}{end}/webli"
