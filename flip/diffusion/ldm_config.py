"""Configurations of diffusers' components, read from weights in latent-diffusion naming.

Every width and depth is read from the weights, so a smaller model of the same shape loads as well. What weights cannot
tell is that of the published models (Rombach et al., CVPR 2022; Podell et al., ICLR 2024), or of the ``.yaml`` beside
the file.
"""

from __future__ import annotations

import re
from pathlib import Path

from flip.diffusion.ldm import UNET, UNET_IN, V2, VAE, VAE_IN, XL, Family, State, TextEncoder, has_linear_projection
from flip.diffusion.original_config import OriginalConfig
from flip.errors import CheckpointError
from flip.files import JsonObject

_HEAD_WIDTH = 64
_MOST_WIDTH, _MOST_WORDS = 16_384, 1_000_000
#: Width of the first level of every published model.
_PUBLISHED_WIDTH = 320


def unet_config(state: State, family: Family, original: OriginalConfig, file: Path) -> JsonObject:
    """Read the configuration of diffusers' ``UNet2DConditionModel`` from the weights.

    Raises
    ------
    CheckpointError
        If the attention heads cannot be told.
    """
    widths: list[int] = []
    depths: list[int] = []
    layers: list[int] = []
    for i in _indices(state, UNET + r"input_blocks\.(\d+)\.")[1:]:
        prefix = f"{UNET}input_blocks.{i}."
        if prefix + "0.op.weight" in state:
            continue
        if not widths or f"{UNET}input_blocks.{i - 1}.0.op.weight" in state:
            widths.append(int(state[prefix + "0.out_layers.3.weight"].shape[0]))
            depths.append(len(_indices(state, re.escape(prefix) + r"1\.transformer_blocks\.(\d+)\.")))
            layers.append(0)
        layers[-1] += 1
    cross = next((v.shape[1] for n, v in state.items() if n.startswith(UNET) and n.endswith("attn2.to_k.weight")), 768)
    config = {
        "sample_size": family.latent_size,
        "in_channels": int(state[UNET_IN].shape[1]),
        "out_channels": int(state[UNET + "out.2.weight"].shape[0]),
        "block_out_channels": widths,
        "layers_per_block": layers[0],
        "down_block_types": ["CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in depths],
        "up_block_types": ["CrossAttnUpBlock2D" if depth else "UpBlock2D" for depth in reversed(depths)],
        "cross_attention_dim": int(cross),
        "attention_head_dim": _heads(widths, family, original, file),
        "use_linear_projection": has_linear_projection(state),
    }
    _require_plain_sizes(config)
    if max(depths) > 1:
        config["transformer_layers_per_block"] = [max(1, depth) for depth in depths]
    return config | _addition_config(state) if family is XL else config


def _heads(widths: list[int], family: Family, original: OriginalConfig, file: Path) -> int | list[int]:
    """Attention heads of each level, which diffusers calls ``attention_head_dim``."""
    if original.head_width:
        if any(width % original.head_width for width in widths):
            raise CheckpointError(
                f"{file}: its .yaml has attention heads of {original.head_width} channels, which do not divide the "
                f"widths {', '.join(map(str, widths))}; correct it"
            )
        return [width // original.head_width for width in widths]
    if original.heads or family.heads:
        return int(original.heads or family.heads or 0)
    if widths[0] != _PUBLISHED_WIDTH:
        raise CheckpointError(
            f"{file}: the weights do not tell the attention heads of this {family.name} of width {widths[0]}; put its "
            ".yaml beside it, or pass --base with a diffusers folder of the same shape"
        )
    return [width // _HEAD_WIDTH for width in widths]


def _addition_config(state: State) -> JsonObject:
    """Configuration of what an XL model reads beside the text: its pooled embedding, and six numbers of sizes."""
    pooled = state.get(XL.texts[1].prefix + "text_projection")
    read = int(state[UNET + "label_emb.0.0.weight"].shape[1])
    return {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256 if pooled is None else (read - int(pooled.shape[1])) // 6,
        "projection_class_embeddings_input_dim": read,
    }


def vae_config(state: State, family: Family, original: OriginalConfig) -> JsonObject:
    """Read the configuration of diffusers' ``AutoencoderKL`` from the weights."""
    levels = _indices(state, VAE + r"encoder\.down\.(\d+)\.")
    widths = [int(state[f"{VAE}encoder.down.{i}.block.0.conv2.weight"].shape[0]) for i in levels]
    config = {
        "in_channels": int(state[VAE + "encoder.conv_in.weight"].shape[1]),
        "out_channels": int(state[VAE + "decoder.conv_out.weight"].shape[0]),
        "block_out_channels": widths,
        "down_block_types": ["DownEncoderBlock2D"] * len(widths),
        "up_block_types": ["UpDecoderBlock2D"] * len(widths),
        "layers_per_block": len(_indices(state, VAE + r"encoder\.down\.0\.block\.(\d+)\.")),
        "latent_channels": int(state[VAE_IN].shape[1]),
        "scaling_factor": original.latent_scale or family.latent_scale,
        "sample_size": family.latent_size * 2 ** (len(widths) - 1),
    }
    return _require_plain_sizes(config)


def text_config(state: State, text: TextEncoder, original: OriginalConfig) -> JsonObject:
    """Read the configuration of transformers' ``CLIPTextModel`` from the weights."""
    return _open_clip_config(state, text, original) if text.open_clip else _clip_config(state, text)


def _clip_config(state: State, text: TextEncoder) -> JsonObject:
    embeddings = text.prefix + "text_model.embeddings."
    words = state[embeddings + "token_embedding.weight"]
    layer = text.prefix + "text_model.encoder.layers."
    config = {
        "vocab_size": int(words.shape[0]),
        **_text_widths(int(words.shape[1])),
        "projection_dim": int(words.shape[1]),
        "max_position_embeddings": int(state[embeddings + "position_embedding.weight"].shape[0]),
        "num_hidden_layers": len(_indices(state, re.escape(layer) + r"(\d+)\.")),
        "intermediate_size": int(state[layer + "0.mlp.fc1.weight"].shape[0]),
        "hidden_act": "quick_gelu",
    }
    return _require_plain_sizes(config)


def _open_clip_config(state: State, text: TextEncoder, original: OriginalConfig) -> JsonObject:
    words = state[text.prefix + "token_embedding.weight"]
    block = text.prefix + "transformer.resblocks."
    layers = len(_indices(state, re.escape(block) + r"(\d+)\."))
    # Stable Diffusion 2 reads the last layer but one, which diffusers does by leaving out the last.
    cut = text in V2.texts and not original.last_layer
    projection = state.get(text.prefix + "text_projection")
    config = {
        "vocab_size": int(words.shape[0]),
        **_text_widths(int(words.shape[1])),
        "projection_dim": int(words.shape[1] if projection is None else projection.shape[1]),
        "max_position_embeddings": int(state[text.prefix + "positional_embedding"].shape[0]),
        "num_hidden_layers": layers - 1 if cut else layers,
        "intermediate_size": int(state[block + "0.mlp.c_fc.weight"].shape[0]),
        "hidden_act": "gelu",
    }
    return _require_plain_sizes(config)


def _require_plain_sizes(config: JsonObject) -> JsonObject:
    """Raise a ValueError for sizes that no published model has: a network of them could fill the memory."""
    for name, value in config.items():
        sizes = value if isinstance(value, list) else [value]
        most = _MOST_WORDS if name == "vocab_size" else _MOST_WIDTH
        if any(type(size) is int and not 1 <= size <= most for size in sizes):
            raise ValueError(f"{name} is {value}")
    return config


def _text_widths(width: int) -> dict[str, int]:
    # Every published CLIP text tower has heads of 64.
    return {"hidden_size": width, "num_attention_heads": max(1, width // _HEAD_WIDTH)}


def _indices(state: State, pattern: str) -> list[int]:
    """Return the sorted distinct numbers that stand in names after a prefix."""
    expression = re.compile(pattern)
    return sorted({int(found[1]) for name in state if (found := expression.match(name))})
