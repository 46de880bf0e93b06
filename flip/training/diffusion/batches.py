"""The batch of each step of a diffusion model's training: it depends on the seed, the step and the process alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from flip.arrays import IntArray
from flip.training.diffusion.examples import Example, Latents
from flip.training.settings import DiffusionSettings

if TYPE_CHECKING:
    from flip.training.diffusion.types import NoiseSchedule


class Batch(NamedTuple):
    """A process's share of one step, on the CPU: b photos.

    ``noisy`` latents and ``target`` (noise or velocity) (b, channels, h, w), ``timesteps`` (b,), and b ``texts``.
    """

    noisy: torch.Tensor
    target: torch.Tensor
    timesteps: torch.Tensor
    texts: tuple[str, ...]

    def part(self, rows: slice) -> Batch:
        """Return some of the photos."""
        return Batch(self.noisy[rows], self.target[rows], self.timesteps[rows], self.texts[rows])


@dataclass(frozen=True)
class Batches:
    """Draws the batch of each step.

    Attributes
    ----------
    examples : sequence of Example
    latents : Latents
    scaling : float
        The autoencoder's factor of latents.
    noise : diffusers.DDPMScheduler
    settings : DiffusionSettings
    process_index, process_count : int
    """

    examples: Sequence[Example]
    latents: Latents
    scaling: float
    noise: NoiseSchedule
    settings: DiffusionSettings
    process_index: int = 0
    process_count: int = 1

    @property
    def photos_per_step(self) -> int:
        """Photos that all processes together learn from in a step."""
        photos = self.settings.batch_size * self.settings.grad_accum * self.process_count
        return min(photos, len(self.latents.numbers))

    @property
    def steps_per_epoch(self) -> int:
        """Whole steps in one pass over the photos; an epoch's remainder is left out."""
        return len(self.latents.numbers) // self.photos_per_step

    @property
    def predicts_velocity(self) -> bool:
        """Whether the U-Net predicts the velocity instead of the noise."""
        return bool(self.noise.config.prediction_type == "v_prediction")

    def draw(self, step: int) -> Batch:
        """Return this process's share of a step, counted from 0."""
        seed, rank = self.settings.seed, self.process_index
        epoch, turn = divmod(step, self.steps_per_epoch)
        order = np.random.default_rng([seed, 1, epoch]).permutation(len(self.latents.numbers))
        rows = order[turn * self.photos_per_step : (turn + 1) * self.photos_per_step][rank :: self.process_count]
        rng = np.random.default_rng([seed, 2, step, rank])
        torch_rng = torch.Generator().manual_seed(int(rng.integers(2**62)))
        clean = self.scaling * self._draw_latents(rows, rng, torch_rng)  # (b, channels, h, w)
        noise = torch.randn(clean.shape, generator=torch_rng)
        timesteps = spread_timesteps(len(rows), self.noise.config.num_train_timesteps, torch_rng)
        target = self.noise.get_velocity(clean, noise, timesteps) if self.predicts_velocity else noise
        texts = tuple(self.draw_text(self.examples[self.latents.numbers[row]], rng) for row in rows)
        return Batch(self.noise.add_noise(clean, noise, timesteps), target, timesteps, texts)

    def _draw_latents(self, rows: IntArray, rng: np.random.Generator, torch_rng: torch.Generator) -> torch.Tensor:
        """Return a latent of a random view of each photo, float32 (b, channels, h, w)."""
        noises = torch.randn((len(rows), *self.latents.mean.shape[2:]), generator=torch_rng)
        views = self.latents.mean.shape[1]
        return torch.stack(
            [self.latents.draw(row, int(rng.integers(views)), noise) for row, noise in zip(rows, noises, strict=True)]
        )

    def draw_text(self, example: Example, rng: np.random.Generator) -> str:
        """Return one of a photo's captions, one of its class's prompts, or no text."""
        dropped, captioned, pick = rng.random(3)
        choices = example.captions if example.captions and captioned < self.settings.caption_share else example.prompts
        return "" if dropped < self.settings.caption_dropout else choices[int(pick * len(choices))]


def spread_timesteps(count: int, timesteps: int, generator: torch.Generator) -> torch.Tensor:
    """Return timesteps, int64 (count,), each uniform on 0 to ``timesteps`` - 1, and together spread evenly over them.

    A step's loss then varies less by which timesteps it drew (low-discrepancy sampling: Kingma et al., NeurIPS 2021).
    """
    start = torch.rand((), generator=generator)
    spread = (start + torch.randperm(count, generator=generator) / count) % 1  # (count,), in [0, 1)
    return (spread * timesteps).long().clamp(max=timesteps - 1)


def snr_weights(
    alphas_cumprod: torch.Tensor, timesteps: torch.Tensor, gamma: float, *, velocity: bool = False
) -> torch.Tensor:
    """Return the min-SNR weights of timesteps, shape (n,): Hang et al., ICCV 2023, section 3.4.

    SNR(t) is alpha_t / (1 - alpha_t) with the cumulative alpha; a network that predicts the noise weighs
    min(SNR, gamma) / SNR, one that predicts the velocity min(SNR, gamma) / (SNR + 1).
    """
    if not gamma:
        return torch.ones(len(timesteps))
    alphas = alphas_cumprod.cpu()[timesteps].double()
    snr = alphas / (1 - alphas)
    return (snr.clamp(max=gamma) / (snr + 1 if velocity else snr)).float()
