"""A small diffusion model from nothing but a configuration: its parts built at random, its autoencoder trained."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch

from flip.diffusion import ldm
from flip.diffusion.diffusers_api import diffusers
from flip.diffusion.examples import Views
from flip.diffusion.text_tower import read_text_tower
from flip.diffusion.tokenizer import make_tokenizer
from flip.errors import ConfigError, DataError
from flip.sample import weights as sample

_PARTS = ("unet", "vae", "text_encoder")

#: Key of a text encoder's configuration that names the folder of an open_clip model.
OPEN_CLIP = "open_clip"

#: Weight of the error of colour when an autoencoder is trained.
_CHROMA = 3.0

#: An autoencoder begins with convolutions that pass on what they get, plus this share of the usual random weights, and
#: with this logarithm of its latents' variance: noise as large as a latent would hide the photo from the decoder.
_RANDOM_SHARE, _LOG_VARIANCE = 0.2, -6.0

#: Share of the steps in which the learning rate of an autoencoder rises; from there it falls to nothing.
_WARMUP = 0.1

#: What else a configuration may hold: how its autoencoder is trained.
VAE_DEFAULTS: dict[str, float] = {"vae_steps": 2000, "vae_batch_size": 16, "vae_lr": 1e-3, "vae_kl": 1e-6}


def read_scratch_config(file: Path) -> dict[str, Any]:
    """Return a configuration: ``unet``, ``vae`` and ``text_encoder`` as diffusers and transformers configure them.

    A folder ``tokenizer`` beside the file is the model's vocabulary; without one it is CLIP's. The word ``sample`` is
    the configuration of the model that comes with flip. A ``text_encoder`` with ``open_clip``, a folder (relative to
    the file), begins as the text tower of that model, and reads as many tokens as ``max_position_embeddings`` says.

    Raises
    ------
    ConfigError
        If the file is missing, no JSON, or lacks a part.
    """
    if str(file) == sample.NAME:
        file = sample.scratch_config("diffusion")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise ConfigError(
            f"--from-scratch {file} cannot be read ({e}); pass a JSON file with {', '.join(_PARTS)}"
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
    return {**VAE_DEFAULTS, **content, **({"tokenizer": str(own)} if own.is_dir() else {})}


def build_pipeline(config: dict[str, Any], seed: int) -> Any:
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
        reason = " ".join(str(e).split())[:200]
        raise ConfigError(f"--from-scratch: a part cannot be built ({reason}); see diffusers' configurations") from e
    width, cross = text_encoder.config.hidden_size, unet.config.cross_attention_dim
    if width != cross:
        raise ConfigError(
            f"--from-scratch: text_encoder has hidden_size {width}, unet cross_attention_dim {cross}; make them equal"
        )
    for network in (unet, vae):
        _silence_residuals(network)
    _pass_on(vae)
    return diffusers.StableDiffusionPipeline(
        unet=unet,
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=_tokenizer(config.get("tokenizer"), text_encoder.config.max_position_embeddings),
        scheduler=diffusers.DDIMScheduler.from_config({**ldm.SCHEDULER, **config.get("scheduler", {})}),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _text_encoder(config: dict[str, Any]) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel

    if OPEN_CLIP in config:
        return read_text_tower(Path(config[OPEN_CLIP]), config.get("max_position_embeddings"))
    return CLIPTextModel(CLIPTextConfig(**{"vocab_size": 49408, **config}))


def _silence_residuals(network: Any) -> None:
    """Set the last layer of every residual branch to zero, and that of a U-Net."""
    last = {"ResnetBlock2D": "conv2", "Transformer2DModel": "proj_out", "UNet2DConditionModel": "conv_out"}
    for module in network.modules():
        layer = last.get(type(module).__name__)
        if layer:
            for parameter in getattr(module, layer).parameters():
                torch.nn.init.zeros_(parameter)


def _pass_on(vae: Any) -> None:
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


def _tokenizer(folder: str | None, context_length: int) -> Any:
    from transformers import CLIPTokenizer

    if folder is None:
        return make_tokenizer(context_length)
    return CLIPTokenizer.from_pretrained(folder, model_max_length=context_length, local_files_only=True)


def train_autoencoder(
    vae: Any,
    views: Views,
    config: dict[str, Any],
    device: torch.device,
    seed: int,
    report: Callable[[int, float], None],
    *,
    autocast: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> float:
    """Train an autoencoder to give photos back, and set its scaling factor; returns the last losses' mean.

    The loss is the mean absolute error, the mean squared one (small saturated parts count, not only backgrounds), the
    mean absolute error of colour, that is of what differs from the mean of red, green and blue, and a little of the KL
    divergence (Rombach et al., CVPR 2022, without the perceptual and adversarial terms, which need
    networks of their own): enough for small pictures, and softer than theirs.

    Parameters
    ----------
    vae : diffusers.AutoencoderKL
    views : Views
    config : dict
        ``VAE_DEFAULTS``.
    device : torch.device
    seed : int
    report : callable
        Called with the step and its loss.
    autocast : callable
        Returns a context of lower precision for one step's forward pass.
    """
    photos = _read_all(views)
    vae.to(device).train().requires_grad_(True)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=float(config["vae_lr"]), weight_decay=0.0)
    steps = int(config["vae_steps"])
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, float(config["vae_lr"]), max(steps, 2), pct_start=_WARMUP)
    losses = []
    chance = np.random.default_rng([seed, 3])
    noise = torch.Generator().manual_seed(seed)
    for step in range(steps):
        rows = chance.integers(len(photos), size=int(config["vae_batch_size"]))
        batch = torch.from_numpy(photos[rows]).to(device).float() / 127.5 - 1
        with autocast():  # anew each step: within one context the weights' copies are never refreshed
            posterior = vae.encode(batch).latent_dist
            latent = posterior.mean + posterior.std * torch.randn(posterior.mean.shape, generator=noise).to(device)
            decoded = vae.decode(latent).sample
        difference = decoded.float() - batch
        error = difference.abs().mean()
        # Both terms are means over a photo's values: the weight means what it means between Rombach's two sums.
        divergence = posterior.kl().mean() / batch[0].numel()
        # A small network learns light and dark first and leaves most pictures in two hues; colour weighs more.
        chroma = (difference - difference.mean(dim=1, keepdim=True)).abs().mean()
        loss = error + difference.square().mean() + _CHROMA * chroma + float(config["vae_kl"]) * divergence
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(float(error.detach()))
        report(step, losses[-1])
    vae.eval().requires_grad_(False)
    _set_scaling(vae, photos[:256], device)
    return float(np.mean(losses[-100:])) if losses else float("nan")


def _set_scaling(vae: Any, photos: Any, device: torch.device) -> None:
    """Scale latents to unit deviation, as Stable Diffusion's are."""
    with torch.inference_mode():
        parts = [
            vae.encode(torch.from_numpy(photos[i : i + 16]).to(device).float() / 127.5 - 1).latent_dist.mean
            for i in range(0, len(photos), 16)
        ]
    vae.register_to_config(scaling_factor=float(1 / torch.cat(parts).std().clamp(min=1e-6)))


def _read_all(views: Views) -> Any:
    """Return every view of every readable photo as bytes, (n, 3, size, size)."""
    read = [((batch + 1) * 127.5).round().astype(np.uint8) for _, batch in views if batch is not None]
    if not read:
        raise DataError("none of the training photos can be read; check the files with flip data check")
    return np.concatenate(read)
