"""The training of a diffusion model, one step at a time: every random number depends on the seed and the step alone."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from flip.arrays import IntArray
from flip.diffusion.diffusers_api import diffusers, training_utils
from flip.diffusion.painter import free_memory, is_out_of_memory
from flip.errors import ConfigError
from flip.training.diffusion.examples import Example, Latents, TextBank
from flip.training.diffusion.types import AveragedModel, Pipeline
from flip.training.resume import Checkpoint, CheckpointFolder, Tensors, optimizer_tensors, restore_optimizer
from flip.training.schedule import lr_factor
from flip.training.settings import DiffusionSettings

if TYPE_CHECKING:
    from accelerate import Accelerator

log = logging.getLogger(__name__)


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


class DiffusionTrainer:
    """One run of denoising training.

    Parameters
    ----------
    pipeline : diffusers.StableDiffusionPipeline
        Its U-Net is trained, and its text encoder where that has gradients.
    accelerator : accelerate.Accelerator
    examples : sequence of Example
    latents : Latents
    texts : TextBank
    settings : DiffusionSettings
    checkpoints : Path
        Folder of this run's checkpoints.
    size : int
        Pixels per side of the training photos.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        accelerator: Accelerator,
        examples: Sequence[Example],
        latents: Latents,
        texts: TextBank,
        settings: DiffusionSettings,
        checkpoints: Path,
        size: int,
    ) -> None:
        self.settings, self.accelerator, self.pipeline, self.size = settings, accelerator, pipeline, size
        self.examples, self._latents, self._texts = examples, latents, texts
        self._checkpoints = CheckpointFolder(checkpoints)
        self._scaling = float(pipeline.vae.config.scaling_factor)
        self._noise = diffusers.DDPMScheduler.from_config(pipeline.scheduler.config)
        self._named = {
            f"{part}.{name}": parameter
            for part in ("unet", "text_encoder")
            for name, parameter in getattr(pipeline, part).named_parameters()
            if parameter.requires_grad
        }
        self.parameters = list(self._named.values())
        optimizer = torch.optim.AdamW(self.parameters, lr=settings.peak_lr, weight_decay=settings.weight_decay)
        self._unet, self._optimizer = accelerator.prepare(pipeline.unet, optimizer)
        self.ema = self._make_ema()
        self._micro = settings.batch_size
        self.step = 0
        #: Loss of the last step.
        self.loss: float | None = None

    def _make_ema(self) -> AveragedModel | None:
        if not self.settings.ema:
            return None
        # diffusers' average follows quickly at first: its decay is at most (1 + step) / (10 + step).
        ema = training_utils.EMAModel(self.parameters, decay=self.settings.ema)
        ema.to(self.accelerator.device)
        return ema

    @property
    def photos_per_step(self) -> int:
        """Photos that all processes together learn from in a step."""
        s = self.settings
        return min(s.batch_size * s.grad_accum * int(self.accelerator.num_processes), len(self._latents.numbers))

    @property
    def steps_per_epoch(self) -> int:
        """Whole steps in one pass over the photos; an epoch's remainder is left out."""
        return len(self._latents.numbers) // self.photos_per_step

    @property
    def steps(self) -> int:
        """Steps of the whole training."""
        return self.settings.epochs * self.steps_per_epoch

    def learning_rate(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        return self.settings.peak_lr * lr_factor(step, self.steps, self.settings.warmup, then="constant")

    def train_step(self) -> float:
        """Take one optimizer step and return its loss.

        Raises
        ------
        ConfigError
            If memory does not hold a single photo, or the loss is not a number.
        """
        batch = self._batch(self.step)
        loss = self._mean(self._gradients_within_memory(batch))
        if not np.isfinite(loss):
            raise ConfigError(
                f"the loss is {loss} at step {self.step}; pass a smaller --lr than {self.settings.peak_lr:g}"
            )
        self.accelerator.clip_grad_norm_(self.parameters, self.settings.clip_grad)
        for group in self._optimizer.param_groups:
            group["lr"] = self.learning_rate(self.step)
        self._optimizer.step()
        if self.ema is not None:
            self.ema.step(self.parameters)
        self.step, self.loss = self.step + 1, loss
        return loss

    def _mean(self, loss: float) -> float:
        """Return the mean over the processes."""
        if self.accelerator.num_processes == 1:
            return loss
        return float(self.accelerator.reduce(torch.tensor(loss, device=self.accelerator.device), "mean"))

    def _batch(self, step: int) -> Batch:
        s, world, rank = self.settings, self.accelerator.num_processes, self.accelerator.process_index
        epoch, turn = divmod(step, self.steps_per_epoch)
        order = np.random.default_rng([s.seed, 1, epoch]).permutation(len(self._latents.numbers))
        rows = order[turn * self.photos_per_step : (turn + 1) * self.photos_per_step][rank::world]
        rng = np.random.default_rng([s.seed, 2, step, rank])
        torch_rng = torch.Generator().manual_seed(int(rng.integers(2**62)))
        clean = self._scaling * self._draw_latents(rows, rng, torch_rng)  # (b, channels, h, w)
        noise = torch.randn(clean.shape, generator=torch_rng)
        timesteps = spread_timesteps(len(rows), self._noise.config.num_train_timesteps, torch_rng)
        target = self._noise.get_velocity(clean, noise, timesteps) if self._tells_velocity else noise
        texts = tuple(self._text(self.examples[self._latents.numbers[row]], rng) for row in rows)
        return Batch(self._noise.add_noise(clean, noise, timesteps), target, timesteps, texts)

    @property
    def _tells_velocity(self) -> bool:
        return bool(self._noise.config.prediction_type == "v_prediction")

    def _draw_latents(self, rows: IntArray, rng: np.random.Generator, torch_rng: torch.Generator) -> torch.Tensor:
        """Return a latent of a random view of each photo, float32 (b, channels, h, w)."""
        noises = torch.randn((len(rows), *self._latents.mean.shape[2:]), generator=torch_rng)
        views = self._latents.mean.shape[1]
        return torch.stack(
            [self._latents.draw(row, int(rng.integers(views)), noise) for row, noise in zip(rows, noises, strict=True)]
        )

    def _text(self, example: Example, rng: np.random.Generator) -> str:
        dropped, captioned, pick = rng.random(3)
        choices = example.captions if example.captions and captioned < self.settings.caption_share else example.prompts
        return "" if dropped < self.settings.caption_dropout else choices[int(pick * len(choices))]

    def _gradients_within_memory(self, batch: Batch) -> float:
        while True:
            try:
                return self._gradients(batch)
            except RuntimeError as e:
                if not is_out_of_memory(e):
                    raise
            self._halve()

    def _gradients(self, batch: Batch) -> float:
        """Accumulate the gradients of a batch in parts, as if it had gone through at once."""
        self._optimizer.zero_grad(set_to_none=True)
        count, total = len(batch.texts), 0.0
        for start in range(0, count, self._micro):
            part = slice(start, start + self._micro)
            last = start + self._micro >= count
            together = contextlib.nullcontext() if last else self.accelerator.no_sync(self._unet)
            with together:
                loss = self._loss(batch.part(part)) / count
                self.accelerator.backward(loss)
            total += float(loss.detach())
        return total

    def _loss(self, batch: Batch) -> torch.Tensor:
        """Return the sum over photos of the weighted mean squared error."""
        device = self.accelerator.device
        timesteps = batch.timesteps.to(device)
        with self.accelerator.autocast():
            states = self._texts.take(batch.texts, device)  # (b, length, width)
            predicted = self._unet(batch.noisy.to(device), timesteps, encoder_hidden_states=states).sample
        error = (predicted.float() - batch.target.to(device)).square().mean(dim=(1, 2, 3))  # (b,)
        alphas, gamma = self._noise.alphas_cumprod, self.settings.snr_gamma
        weights = snr_weights(alphas, batch.timesteps, gamma, velocity=self._tells_velocity)
        total: torch.Tensor = (error * weights.to(device)).sum()
        return total

    def _halve(self) -> None:
        self._optimizer.zero_grad(set_to_none=True)
        free_memory()
        if self._micro == 1 or self.accelerator.num_processes > 1:
            raise ConfigError(
                f"out of memory with {self._micro} photos at once; pass a smaller --size, --batch-size 1, "
                "--grad-checkpointing, --precision bf16, or --lora 8"
            )
        self._micro = max(1, min(self._micro, self.photos_per_step) // 2)
        log.warning(f"out of memory; continuing with {self._micro} photos at once and as many per step as before")

    @contextlib.contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """Put the averaged weights into the model while the context is open."""
        if self.ema is None:
            yield
            return
        self.ema.store(self.parameters)
        self.ema.copy_to(self.parameters)
        try:
            yield
        finally:
            self.ema.restore(self.parameters)

    def save(self) -> None:
        """Write a checkpoint of all that the next step depends on; returns when every process has come here."""
        if self.accelerator.is_main_process:
            names = {parameter: name for name, parameter in self._named.items()}
            tensors: dict[str, Tensors] = {
                "weights": dict(self._named),
                "optimizer": optimizer_tensors(self._optimizer, names),
            }
            state: dict[str, Any] = {"step": self.step, "loss": self.loss}
            if self.ema is not None:
                tensors["average"] = dict(zip(self._named, self.ema.shadow_params, strict=True))
                state["average_steps"] = self.ema.optimization_step
            self._checkpoints.save(Checkpoint(tensors, state))
        self.accelerator.wait_for_everyone()

    def resume(self) -> bool:
        """Load the latest checkpoint; returns whether there was one.

        Raises
        ------
        CheckpointError
            If it is damaged.
        """
        checkpoint = self._checkpoints.load()
        if checkpoint is None:
            return False
        with torch.no_grad():
            for name, parameter in self._named.items():
                parameter.copy_(checkpoint.tensors["weights"][name])
        restore_optimizer(self._optimizer, checkpoint.tensors["optimizer"], self._named)
        if self.ema is not None:
            average = checkpoint.tensors["average"]
            self.ema.shadow_params = [average[name].to(p.device, p.dtype) for name, p in self._named.items()]
            self.ema.optimization_step = int(checkpoint.state["average_steps"])
        self.step, self.loss = int(checkpoint.state["step"]), checkpoint.state["loss"]
        return True

    def finish(self) -> None:
        """Remove the checkpoints, once the result is written."""
        if self.accelerator.is_main_process:
            self._checkpoints.remove()


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
