"""Stable Diffusion v1 in the naming of CompVis' latent-diffusion code, as diffusers' components.

The hyper-parameters that weights cannot tell (heads, noise schedule) are those of Stable Diffusion v1 (Rombach et al.,
CVPR 2022); every width and depth is read from the weights, so a smaller model of the same shape loads as well.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flip.device import parameters_without_memory
from flip.errors import CheckpointError

if TYPE_CHECKING:
    import torch

UNET = "model.diffusion_model."
VAE = "first_stage_model."
TEXT = "cond_stage_model.transformer."
EMA = "model_ema."

#: What tells a component from a file: its prefix, and a weight that it cannot be without.
COMPONENTS = {
    "unet": UNET + "input_blocks.0.0.weight",
    "vae": VAE + "decoder.conv_in.weight",
    "text_encoder": TEXT + "text_model.embeddings.token_embedding.weight",
}

_HEADS = 8
_TEXT_HEAD_WIDTH = 64
_LATENT_SCALE = 0.18215
_LATENT_SIZE = 64

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


def is_ldm(state: State) -> bool:
    """Return whether weights are those of a latent-diffusion U-Net, whatever else the file holds."""
    return COMPONENTS["unet"] in state


def select_weights(state: State, *, ema: bool) -> dict[str, torch.Tensor]:
    """Return the weights of U-Net, autoencoder and text encoder, without what training leaves beside them.

    Parameters
    ----------
    state : mapping
    ema : bool
        Take the averaged U-Net weights where the file has them. latent-diffusion keeps each under
        ``model_ema.`` and the weight's name below ``model.`` with its dots left out.
    """
    chosen = {name: value for name, value in state.items() if name.startswith((UNET, VAE, TEXT))}
    if ema:
        for name in chosen:
            averaged = EMA + name.removeprefix("model.").replace(".", "")
            if name.startswith(UNET) and averaged in state:
                chosen[name] = state[averaged]
    return chosen


def unet_config(state: State) -> dict[str, Any]:
    """Return the configuration of diffusers' ``UNet2DConditionModel`` for these weights."""
    blocks = _indices(state, UNET + r"input_blocks\.(\d+)\.")
    widths: list[int] = []
    attends: list[bool] = []
    layers: list[int] = []
    for i in blocks[1:]:
        prefix = f"{UNET}input_blocks.{i}."
        if prefix + "0.op.weight" in state:
            continue
        if not widths or f"{UNET}input_blocks.{i - 1}.0.op.weight" in state:
            widths.append(int(state[prefix + "0.out_layers.3.weight"].shape[0]))
            attends.append(any(name.startswith(prefix + "1.") for name in state))
            layers.append(0)
        layers[-1] += 1
    cross = next((v.shape[1] for n, v in state.items() if n.startswith(UNET) and n.endswith("attn2.to_k.weight")), 768)
    projection = next((v for n, v in state.items() if n.startswith(UNET) and n.endswith(".proj_in.weight")), None)
    return {
        "sample_size": _LATENT_SIZE,
        "in_channels": int(state[UNET + "input_blocks.0.0.weight"].shape[1]),
        "out_channels": int(state[UNET + "out.2.weight"].shape[0]),
        "block_out_channels": widths,
        "layers_per_block": layers[0],
        "down_block_types": ["CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attends],
        "up_block_types": ["CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)],
        "cross_attention_dim": int(cross),
        "attention_head_dim": _HEADS,
        "use_linear_projection": projection is not None and projection.ndim == 2,
    }


def vae_config(state: State) -> dict[str, Any]:
    """Return the configuration of diffusers' ``AutoencoderKL`` for these weights."""
    levels = _indices(state, VAE + r"encoder\.down\.(\d+)\.")
    widths = [int(state[f"{VAE}encoder.down.{i}.block.0.conv2.weight"].shape[0]) for i in levels]
    return {
        "in_channels": int(state[VAE + "encoder.conv_in.weight"].shape[1]),
        "out_channels": int(state[VAE + "decoder.conv_out.weight"].shape[0]),
        "block_out_channels": widths,
        "down_block_types": ["DownEncoderBlock2D"] * len(widths),
        "up_block_types": ["UpDecoderBlock2D"] * len(widths),
        "layers_per_block": len(_indices(state, VAE + r"encoder\.down\.0\.block\.(\d+)\.")),
        "latent_channels": int(state[VAE + "decoder.conv_in.weight"].shape[1]),
        "scaling_factor": _LATENT_SCALE,
        "sample_size": _LATENT_SIZE * 2 ** (len(widths) - 1),
    }


def text_config(state: State) -> dict[str, Any]:
    """Return the configuration of transformers' ``CLIPTextModel`` for these weights."""
    embeddings = TEXT + "text_model.embeddings."
    words = state[embeddings + "token_embedding.weight"]
    width = int(words.shape[1])
    layer = TEXT + "text_model.encoder.layers."
    return {
        "vocab_size": int(words.shape[0]),
        "hidden_size": width,
        "projection_dim": width,
        "max_position_embeddings": int(state[embeddings + "position_embedding.weight"].shape[0]),
        "num_hidden_layers": len(_indices(state, re.escape(layer) + r"(\d+)\.")),
        "intermediate_size": int(state[layer + "0.mlp.fc1.weight"].shape[0]),
        # Every CLIP text tower has heads of 64.
        "num_attention_heads": max(1, width // _TEXT_HEAD_WIDTH),
        "hidden_act": "quick_gelu",
    }


def build_component(kind: str, state: State, file: Path) -> Any:
    """Build one component from weights in latent-diffusion naming; its parameters are the given tensors, not copies.

    Parameters
    ----------
    kind : {"unet", "vae", "text_encoder"}
    state : mapping
        As ``select_weights`` returns it.
    file : Path
        What errors name.

    Raises
    ------
    CheckpointError
        If a weight is missing or has another shape than the rest implies.
    """
    from transformers import CLIPTextConfig, CLIPTextModel

    from flip.diffusion.diffusers_api import convert, diffusers

    try:
        with parameters_without_memory():
            if kind == "unet":
                config = unet_config(state)
                model: Any = diffusers.UNet2DConditionModel.from_config(config)
                weights = convert.convert_ldm_unet_checkpoint(dict(state), config)
            elif kind == "vae":
                config = vae_config(state)
                model = diffusers.AutoencoderKL.from_config(config)
                weights = convert.convert_ldm_vae_checkpoint(dict(state), config)
            else:
                model = CLIPTextModel(CLIPTextConfig(**text_config(state)))
                weights = _text_weights(state, model)
    except (KeyError, IndexError) as e:
        raise CheckpointError(f"{file} is no whole {kind} of Stable Diffusion v1: {e} is missing") from e
    return fill(model, weights, kind, file)


def _text_weights(state: State, model: Any) -> dict[str, Any]:
    found = {name.removeprefix(TEXT): value for name, value in state.items() if name.startswith(TEXT)}
    found.pop("text_model.embeddings.position_ids", None)
    # transformers 5.6 left out the level "text_model" that every checkpoint has.
    return found if hasattr(model, "text_model") else {n.removeprefix("text_model."): v for n, v in found.items()}


def fill(model: Any, weights: Mapping[str, Any], kind: str, file: Path) -> Any:
    """Give a model its weights, each of them, and put it in ``eval()``."""
    wanted = model.state_dict()
    missing = [name for name in wanted if name not in weights]
    extra = [name for name in weights if name not in wanted]
    wrong = [n for n, value in wanted.items() if n in weights and value.shape != weights[n].shape]
    if missing or extra or wrong:
        first = f"{missing[0]} is missing" if missing else f"{(wrong or extra)[0]} does not fit"
        count = len(missing) + len(extra) + len(wrong)
        raise CheckpointError(
            f"{file}: {first} ({count} weights of the {kind} in all); it is no Stable Diffusion v1 checkpoint, or cut"
        )
    model.load_state_dict(dict(weights), assign=True)
    return model.eval().requires_grad_(False)


def _indices(state: State, pattern: str) -> list[int]:
    """Return the sorted distinct numbers that stand in names after a prefix."""
    expression = re.compile(pattern)
    return sorted({int(found[1]) for name in state if (found := expression.match(name))})
