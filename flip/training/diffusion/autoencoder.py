"""Training of a small autoencoder, the first stage of a diffusion model from scratch."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import numpy as np
import torch

from flip.arrays import PixelArray
from flip.errors import DataError
from flip.files import JsonObject
from flip.training.diffusion.examples import Views

if TYPE_CHECKING:
    from flip.training.diffusion.types import Autoencoder, Posterior

log = logging.getLogger(__name__)

#: Defaults of an autoencoder's training in a configuration.
VAE_DEFAULTS: dict[str, float] = {"vae_steps": 2000, "vae_batch_size": 16, "vae_lr": 1e-3, "vae_kl": 1e-6}

#: Weight of the error of colour when an autoencoder is trained.
_CHROMA = 3.0

#: Share of the steps in which the learning rate of an autoencoder rises; from there it falls to nothing.
_WARMUP = 0.1


#: Steps between two lines about the loss.
_REPORT_EVERY = 100


def train_autoencoder(
    vae: Autoencoder,
    views: Views,
    config: JsonObject,
    device: torch.device,
    seed: int,
    *,
    autocast: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> None:
    """Train an autoencoder to reconstruct photos, and set its scaling factor.

    Parameters
    ----------
    config : dict
        With ``VAE_DEFAULTS``.
    autocast : callable
        Returns a context of lower precision for one step's forward pass.
    """
    photos = _read_all(views)
    vae.to(device).train().requires_grad_(True)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=float(config["vae_lr"]), weight_decay=0.0)
    steps = int(config["vae_steps"])
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, float(config["vae_lr"]), max(steps, 2), pct_start=_WARMUP)
    rng = np.random.default_rng([seed, 3])
    noise = torch.Generator().manual_seed(seed)
    for step in range(1, steps + 1):
        rows = rng.integers(len(photos), size=int(config["vae_batch_size"]))
        batch = torch.from_numpy(photos[rows]).to(device).float() / 127.5 - 1  # (b, 3, size, size)
        with autocast():  # again each step: within one context the weights' copies are never refreshed
            decoded, posterior = _reconstruct(vae, batch, noise)
        loss, error = reconstruction_loss(decoded.float() - batch, posterior, float(config["vae_kl"]))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % _REPORT_EVERY == 0:
            log.info(f"autoencoder: step {step} of {steps}, error {float(error):.4f}")
    vae.eval().requires_grad_(False)
    _set_scaling(vae, photos[:256], device)


def _reconstruct(vae: Autoencoder, batch: torch.Tensor, noise: torch.Generator) -> tuple[torch.Tensor, Posterior]:
    """Return photos (b, 3, size, size) decoded from a sample of their latents' posterior, and the posterior."""
    posterior = vae.encode(batch).latent_dist
    latent = posterior.mean + posterior.std * torch.randn(posterior.mean.shape, generator=noise).to(batch.device)
    return vae.decode(latent).sample, posterior


def reconstruction_loss(difference: torch.Tensor, posterior: Posterior, kl: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the loss of an autoencoder, and its mean absolute error alone.

    The sum of the mean absolute error, the mean squared error (it makes small saturated parts count, not only
    backgrounds), the mean absolute error of colour (the difference from the mean of red, green and blue) and a little
    KL divergence (Rombach et al., CVPR 2022, without the perceptual and adversarial terms, which need networks of their
    own): enough for small images, and softer than theirs.

    Parameters
    ----------
    difference : float tensor of shape (b, 3, size, size)
        Decoded minus original.
    posterior : diffusers' DiagonalGaussianDistribution
    kl : float
        Weight of the KL divergence.
    """
    error = difference.abs().mean()
    # Both terms are means over a photo's values: the weight is that between Rombach's two sums.
    divergence = posterior.kl().mean() / difference[0].numel()
    # A small network learns light and dark first and leaves most images in two hues; colour weighs more.
    chroma = (difference - difference.mean(dim=1, keepdim=True)).abs().mean()
    loss: torch.Tensor = error + difference.square().mean() + _CHROMA * chroma + kl * divergence
    return loss, error.detach()


def _set_scaling(vae: Autoencoder, photos: PixelArray, device: torch.device) -> None:
    """Scale latents to unit deviation, as Stable Diffusion's are."""
    with torch.inference_mode():
        parts = [
            vae.encode(torch.from_numpy(photos[i : i + 16]).to(device).float() / 127.5 - 1).latent_dist.mean
            for i in range(0, len(photos), 16)
        ]
    vae.register_to_config(scaling_factor=float(1 / torch.cat(parts).std().clamp(min=1e-6)))


def _read_all(views: Views) -> PixelArray:
    """Return every view of every readable photo, uint8 (n, 3, size, size)."""
    read = [((batch + 1) * 127.5).round().astype(np.uint8) for _, batch in views if batch is not None]
    if not read:
        raise DataError("none of the training photos can be read; check the files")
    return np.concatenate(read)
