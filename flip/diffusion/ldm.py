"""Stable Diffusion 1, 2 and XL in the naming of CompVis' latent-diffusion code: families, weights, configurations.

Every width and depth is read from the weights, so a smaller model of the same shape loads as well. What weights cannot
tell is that of the published models (Rombach et al., CVPR 2022; Podell et al., ICLR 2024), or of the ``.yaml`` beside
the file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flip.diffusion.original_config import OriginalConfig
from flip.errors import CheckpointError

if TYPE_CHECKING:
    import torch

UNET = "model.diffusion_model."
VAE = "first_stage_model."
EMA = "model_ema."
_TEXTS = ("cond_stage_model.", "conditioner.embedders.")

#: Words that some SDXL checkpoints hold as keys of their own, to say what their weights do not.
_SIGNS = ("v_pred", "ztsnr", "edm_mean")

UNET_IN = UNET + "input_blocks.0.0.weight"
VAE_IN = VAE + "decoder.conv_in.weight"

#: Models that read more than noisy latents, by the channels of their input.
_OTHER_INPUTS = {
    9: "an inpainting model: it reads a mask and a picture too",
    8: "an InstructPix2Pix model: it reads a picture too",
    7: "an upscaler: it reads a small picture too",
    5: "a depth-to-image model: it reads a depth map too",
}

_HEADS = 8
_HEAD_WIDTH = 64
#: Width of the first level of every published model.
_PUBLISHED_WIDTH = 320

SCHEDULER = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "prediction_type": "epsilon",
}

State = Mapping[str, "torch.Tensor"]


@dataclass(frozen=True)
class TextEncoder:
    """A text encoder in a checkpoint: its prefix, and whether it is named as by OpenCLIP or by transformers."""

    kind: str
    prefix: str
    open_clip: bool

    @property
    def sign(self) -> str:
        """A weight that it cannot be without."""
        return self.prefix + (
            "token_embedding.weight" if self.open_clip else "text_model.embeddings.token_embedding.weight"
        )


@dataclass(frozen=True)
class Family:
    """A generation of Stable Diffusion.

    Attributes
    ----------
    name, pipeline : str
        As people call it, and the class of diffusers that draws with it.
    texts : tuple of TextEncoder
    latent_scale : float
    latent_size : int
        Latent pixels a side.
    heads : int or None
        Attention heads of every level; None for heads of 64 channels.
    """

    name: str
    pipeline: str
    texts: tuple[TextEncoder, ...]
    latent_scale: float
    latent_size: int
    heads: int | None


V1 = Family(
    "Stable Diffusion 1",
    "StableDiffusionPipeline",
    (TextEncoder("text_encoder", "cond_stage_model.transformer.", False),),
    0.18215,
    64,
    _HEADS,
)
V2 = Family(
    "Stable Diffusion 2",
    "StableDiffusionPipeline",
    (TextEncoder("text_encoder", "cond_stage_model.model.", True),),
    0.18215,
    64,
    None,
)
XL = Family(
    "Stable Diffusion XL",
    "StableDiffusionXLPipeline",
    (
        TextEncoder("text_encoder", "conditioner.embedders.0.transformer.", False),
        TextEncoder("text_encoder_2", "conditioner.embedders.1.model.", True),
    ),
    0.13025,
    128,
    None,
)


def is_ldm(state: State) -> bool:
    """Whether weights are those of a latent-diffusion U-Net, whatever else the file holds."""
    return UNET_IN in state


def select_weights(state: State, *, ema: bool) -> dict[str, torch.Tensor]:
    """Return the weights of U-Net, autoencoder and text encoders, without what training leaves beside them.

    Text encoders that were saved without the level ``text_model`` (as NovelAI's) get it.

    Parameters
    ----------
    state : mapping
    ema : bool
        Take the averaged U-Net weights where the file has them. latent-diffusion keeps each under
        ``model_ema.`` and the weight's name below ``model.`` with its dots left out.
    """
    chosen = {}
    for name, value in state.items():
        if name.startswith((UNET, VAE)) or name in _SIGNS:
            averaged = EMA + name.removeprefix("model.").replace(".", "")
            use = ema and name.startswith(UNET) and averaged in state
            chosen[name] = state[averaged] if use else value
        elif name.startswith(_TEXTS) and not _is_left_over(name):
            chosen[re.sub(r"(\.transformer\.)(embeddings|encoder|final_layer_norm)\.", r"\1text_model.\2.", name)] = (
                value
            )
    return chosen


def _is_left_over(name: str) -> bool:
    """Whether a text encoder's weight is none that reads texts here: CLIP's other half, or a buffer."""
    own = name.split(".")
    if own[-1] in ("logit_scale", "position_ids", "attn_mask") or any(n.startswith(("visual", "vision")) for n in own):
        return True
    return "text_projection" in own and not re.match(r"(cond_stage_model|conditioner\.embedders\.\d)\.model\.", name)


def family_of(state: State, file: Path) -> Family:
    """Tell the family of a checkpoint.

    Raises
    ------
    CheckpointError
        If it is one that flip does not draw with; the message names it.
    """
    has = {
        prefix: any(name.startswith(prefix) for name in state) for prefix in ("conditioner.", "cond_stage_model.model.")
    }
    labelled = UNET + "label_emb.0.0.weight" in state
    refused = None
    if "edm_mean" in state:
        refused = "Playground 2.5, whose noise is scaled otherwise"
    elif has["conditioner."] and XL.texts[1].sign not in state:
        refused = "the refiner of Stable Diffusion XL, which improves another model's pictures"
    elif labelled and not has["conditioner."] and any(name.startswith(_TEXTS) for name in state):
        refused = "an unCLIP model, which reads pictures"
    channels = int(state[UNET_IN].shape[1])
    latents = int(state[VAE_IN].shape[1]) if VAE_IN in state else int(state[UNET + "out.2.weight"].shape[0])
    if refused is None and channels != latents:
        refused = _OTHER_INPUTS.get(channels, f"a model that reads {channels} channels where latents have {latents}")
    if refused is not None:
        raise CheckpointError(f"{file} is {refused}; flip draws from prompts alone: pass a text-to-image model")
    if labelled:
        return XL
    if has["cond_stage_model.model."]:
        return V2
    texts = any(name.startswith(_TEXTS) for name in state)
    return V2 if not texts and _has_linear_projection(state) else V1


def _has_linear_projection(state: State) -> bool:
    projection = next((v for n, v in state.items() if n.startswith(UNET) and n.endswith(".proj_in.weight")), None)
    return projection is not None and projection.ndim == 2


def unet_config(state: State, family: Family, original: OriginalConfig, file: Path) -> dict[str, Any]:
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
        "use_linear_projection": _has_linear_projection(state),
    }
    if max(depths) > 1:
        config["transformer_layers_per_block"] = [max(1, depth) for depth in depths]
    return config | _addition_config(state) if family is XL else config


def _heads(widths: list[int], family: Family, original: OriginalConfig, file: Path) -> int | list[int]:
    """Attention heads of each level, which diffusers calls ``attention_head_dim``."""
    if original.head_width:
        return [width // original.head_width for width in widths]
    if original.heads or family.heads:
        return original.heads or family.heads or _HEADS
    if widths[0] != _PUBLISHED_WIDTH:
        raise CheckpointError(
            f"{file}: the weights do not tell the attention heads of this {family.name} of width {widths[0]}; put its "
            ".yaml beside it, or pass --base with a diffusers folder of the same shape"
        )
    return [width // _HEAD_WIDTH for width in widths]


def _addition_config(state: State) -> dict[str, Any]:
    """Configuration of what an XL model reads beside the text: its pooled embedding, and six numbers of sizes."""
    pooled = state.get(XL.texts[1].prefix + "text_projection")
    read = int(state[UNET + "label_emb.0.0.weight"].shape[1])
    return {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256 if pooled is None else (read - int(pooled.shape[1])) // 6,
        "projection_class_embeddings_input_dim": read,
    }


def vae_config(state: State, family: Family, original: OriginalConfig) -> dict[str, Any]:
    """Read the configuration of diffusers' ``AutoencoderKL`` from the weights."""
    levels = _indices(state, VAE + r"encoder\.down\.(\d+)\.")
    widths = [int(state[f"{VAE}encoder.down.{i}.block.0.conv2.weight"].shape[0]) for i in levels]
    return {
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


def text_config(state: State, text: TextEncoder, original: OriginalConfig) -> dict[str, Any]:
    """Read the configuration of transformers' ``CLIPTextModel`` from the weights."""
    return _open_clip_config(state, text, original) if text.open_clip else _clip_config(state, text)


def _clip_config(state: State, text: TextEncoder) -> dict[str, Any]:
    embeddings = text.prefix + "text_model.embeddings."
    words = state[embeddings + "token_embedding.weight"]
    layer = text.prefix + "text_model.encoder.layers."
    return {
        "vocab_size": int(words.shape[0]),
        **_text_widths(int(words.shape[1])),
        "projection_dim": int(words.shape[1]),
        "max_position_embeddings": int(state[embeddings + "position_embedding.weight"].shape[0]),
        "num_hidden_layers": len(_indices(state, re.escape(layer) + r"(\d+)\.")),
        "intermediate_size": int(state[layer + "0.mlp.fc1.weight"].shape[0]),
        "hidden_act": "quick_gelu",
    }


def _open_clip_config(state: State, text: TextEncoder, original: OriginalConfig) -> dict[str, Any]:
    words = state[text.prefix + "token_embedding.weight"]
    block = text.prefix + "transformer.resblocks."
    layers = len(_indices(state, re.escape(block) + r"(\d+)\."))
    # Stable Diffusion 2 reads the last layer but one, which diffusers does by leaving out the last.
    cut = text in V2.texts and not original.last_layer
    projection = state.get(text.prefix + "text_projection")
    return {
        "vocab_size": int(words.shape[0]),
        **_text_widths(int(words.shape[1])),
        "projection_dim": int(words.shape[1] if projection is None else projection.shape[1]),
        "max_position_embeddings": int(state[text.prefix + "positional_embedding"].shape[0]),
        "num_hidden_layers": layers - 1 if cut else layers,
        "intermediate_size": int(state[block + "0.mlp.c_fc.weight"].shape[0]),
        "hidden_act": "gelu",
    }


def _text_widths(width: int) -> dict[str, int]:
    # Every published CLIP text tower has heads of 64.
    return {"hidden_size": width, "num_attention_heads": max(1, width // _HEAD_WIDTH)}


def _indices(state: State, pattern: str) -> list[int]:
    """Return the sorted distinct numbers that stand in names after a prefix."""
    expression = re.compile(pattern)
    return sorted({int(found[1]) for name in state if (found := expression.match(name))})
