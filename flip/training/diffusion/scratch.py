"""A small diffusion model built from a configuration, with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch

from flip.diffusion import ldm
from flip.diffusion.diffusers_api import diffusers
from flip.diffusion.text_tower import read_text_tower
from flip.diffusion.tokenizer import make_tokenizer
from flip.errors import ConfigError, reason_of
from flip.files import JsonObject
from flip.reading import read_json
from flip.sample import weights as sample
from flip.training.diffusion.autoencoder import VAE_DEFAULTS

if TYPE_CHECKING:
    from flip.diffusion.pipeline import Pipeline
    from flip.training.diffusion.types import Autoencoder, TextEncoder, Tokenizer

_PARTS = ("unet", "vae", "text_encoder")

#: Key of a text encoder's configuration that names the folder of an open_clip model.
OPEN_CLIP = "open_clip"

#: An autoencoder's convolutions begin as the identity plus this share of the usual random weights, and its latents with
#: this log-variance: noise as large as a latent would hide the photo from the decoder.
_RANDOM_SHARE, _LOG_VARIANCE = 0.2, -6.0


def read_scratch_config(file: Path) -> JsonObject:
    """Return a configuration: ``unet``, ``vae`` and ``text_encoder`` as diffusers and transformers configure them.

    A folder ``tokenizer`` beside the file is the model's vocabulary; without one it is CLIP's. The word ``sample`` is
    the configuration of the model that comes with flip. A ``text_encoder`` with ``open_clip``, a folder (relative to
    the file), begins as the text tower of that model, reads as many tokens as ``max_position_embeddings`` says, and
    brings its vocabulary along.

    Raises
    ------
    ConfigError
        If the file is missing, no JSON, or lacks a part.
    """
    if str(file) == sample.NAME:
        file = sample.scratch_config("diffusion")
    try:
        content = read_json(file)
    except (OSError, ValueError) as e:
        raise ConfigError(
            f"--from-scratch {file} cannot be read ({reason_of(e)}); pass a JSON file with {', '.join(_PARTS)}"
        ) from e
    missing = [part for part in _PARTS if not isinstance(content, dict) or not isinstance(content.get(part), dict)]
    if missing:
        raise ConfigError(f"--from-scratch {file} has no {missing[0]}; it needs {', '.join(_PARTS)}, each an object")
    unknown = sorted(content.keys() - {*_PARTS, *VAE_DEFAULTS, "scheduler"})
    if unknown:
        allowed = ", ".join((*_PARTS, "scheduler", *VAE_DEFAULTS))
        raise ConfigError(f"--from-scratch {file} has an unknown {unknown[0]!r}; it may hold {allowed}")
    own = file.parent / "tokenizer"
    if OPEN_CLIP in content["text_encoder"]:
        clip = file.parent / str(content["text_encoder"][OPEN_CLIP])
        content["text_encoder"] = {**content["text_encoder"], OPEN_CLIP: str(clip)}
        own = own if own.is_dir() or not (clip / "vocab.json").is_file() else clip
    return {**VAE_DEFAULTS, **content, **({"tokenizer": str(own)} if own.is_dir() else {})}


def build_pipeline(config: JsonObject, seed: int) -> Pipeline:
    """Build a pipeline with random weights.

    Residual branches begin at zero, as guided diffusion's do (Dhariwal & Nichol, NeurIPS 2021), and an autoencoder's
    other convolutions near the identity: a short training then starts from a blurred copy of the photo instead of
    looking for colours first. A text encoder may begin as the text tower of an open_clip model.

    Raises
    ------
    ConfigError
        If the parts cannot be built, or do not fit each other.
    """
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            unet = diffusers.UNet2DConditionModel.from_config(config["unet"])
            vae = diffusers.AutoencoderKL.from_config(config["vae"])
            text_encoder = _text_encoder(config["text_encoder"])
    except (TypeError, ValueError, KeyError) as e:
        reason = reason_of(e)
        raise ConfigError(f"--from-scratch: a part cannot be built ({reason}); see diffusers' configurations") from e
    tokenizer = _tokenizer(config.get("tokenizer"), text_encoder.config.max_position_embeddings)
    _require_fitting(unet.config.cross_attention_dim, text_encoder, tokenizer)
    for network in (unet, vae):
        _silence_residuals(network)
    _pass_on(vae)
    pipeline: Pipeline = diffusers.StableDiffusionPipeline(
        unet=unet,
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        scheduler=diffusers.DDIMScheduler.from_config({**ldm.SCHEDULER, **config.get("scheduler", {})}),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    return pipeline


def _require_fitting(cross: int, text_encoder: TextEncoder, tokenizer: Tokenizer) -> None:
    """Raise a ConfigError unless text encoder, tokenizer and U-Net (of this cross-attention width) fit each other."""
    width, words = text_encoder.config.hidden_size, text_encoder.config.vocab_size
    if width != cross:
        raise ConfigError(
            f"--from-scratch: text_encoder has hidden_size {width}, unet cross_attention_dim {cross}; make them equal"
        )
    if len(tokenizer) > words:
        raise ConfigError(
            f"--from-scratch: text_encoder knows {words} tokens, the tokenizer has {len(tokenizer)}; "
            "put the vocabulary's files into a folder tokenizer beside the configuration"
        )


def _text_encoder(config: JsonObject) -> TextEncoder:
    from transformers import CLIPTextConfig, CLIPTextModel

    if OPEN_CLIP in config:
        tower = read_text_tower(Path(config[OPEN_CLIP]), config.get("max_position_embeddings"))
    else:
        tower = CLIPTextModel(CLIPTextConfig(**{"vocab_size": 49408, **config}))
    return cast("TextEncoder", tower)


def _silence_residuals(network: torch.nn.Module) -> None:
    """Set the last layer of every residual branch to zero, and that of a U-Net."""
    last = {"ResnetBlock2D": "conv2", "Transformer2DModel": "proj_out", "UNet2DConditionModel": "conv_out"}
    for module in network.modules():
        layer = "to_out" if getattr(module, "residual_connection", False) else last.get(type(module).__name__)
        if layer:
            for parameter in getattr(module, layer).parameters():
                torch.nn.init.zeros_(parameter)


def _pass_on(vae: Autoencoder) -> None:
    """Begin an autoencoder's convolutions outside residual branches near the identity, with little noise on latents."""
    inside = {"conv1", "conv2"}
    with torch.no_grad():
        for name, module in vae.named_modules():
            if isinstance(module, torch.nn.Conv2d) and name.rpartition(".")[2] not in inside:
                identity = torch.nn.init.dirac_(torch.empty_like(module.weight))
                module.weight.mul_(_RANDOM_SHARE).add_(identity)
        channels = vae.config.latent_channels
        if vae.quant_conv is not None:
            vae.quant_conv.weight[channels:].zero_()
            vae.quant_conv.bias[channels:].fill_(_LOG_VARIANCE)


def _tokenizer(folder: str | None, context_length: int) -> Tokenizer:
    from transformers import CLIPTokenizer

    if folder is None:
        tokenizer: Tokenizer = make_tokenizer(context_length)
    else:
        tokenizer = CLIPTokenizer.from_pretrained(folder, model_max_length=context_length, local_files_only=True)
    return tokenizer
