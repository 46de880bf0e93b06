"""Stable Diffusion 1, 2 and XL in the naming of CompVis' latent-diffusion code: families and their weights."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

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
    9: "an inpainting model: it reads a mask and an image too",
    8: "an InstructPix2Pix model: it reads an image too",
    7: "an upscaler: it reads a small image too",
    5: "a depth-to-image model: it reads a depth map too",
}

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
    8,
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
    """True for weights of a latent-diffusion U-Net, whatever else the file holds."""
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
    """True for a weight beside the text transformer: CLIP's image side, a projection, or a buffer."""
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
        refused = "the refiner of Stable Diffusion XL, which improves another model's images"
    elif labelled and not has["conditioner."] and any(name.startswith(_TEXTS) for name in state):
        refused = "an unCLIP model, which reads images"
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
    return V2 if not texts and has_linear_projection(state) else V1


def has_linear_projection(state: State) -> bool:
    """True if the U-Net's attention projects by matrices rather than by convolutions."""
    projection = next((v for n, v in state.items() if n.startswith(UNET) and n.endswith(".proj_in.weight")), None)
    return projection is not None and projection.ndim == 2
