"""The training of a small autoencoder, the first step of a diffusion model from scratch."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch

from flip.errors import DataError
from flip.training.diffusion.examples import Views

#: How an autoencoder is trained, where a configuration says nothing else.
VAE_DEFAULTS: dict[str, float] = {"vae_steps": 2000, "vae_batch_size": 16, "vae_lr": 1e-3, "vae_kl": 1e-6}

#: Weight of the error of colour when an autoencoder is trained.
_CHROMA = 3.0

#: Share of the steps in which the learning rate of an autoencoder rises; from there it falls to nothing.
_WARMUP = 0.1


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
