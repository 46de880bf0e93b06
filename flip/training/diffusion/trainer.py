"""The training of a diffusion model, one step at a time: every random number depends on the seed and the step alone."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from flip.diffusion.diffusers_api import diffusers, training_utils
from flip.diffusion.painter import free_memory, is_out_of_memory
from flip.errors import ConfigError
from flip.training.checkpoints import Checkpoint, CheckpointFolder, Tensors, optimizer_tensors, restore_optimizer
from flip.training.diffusion.batches import Batch, Batches, snr_weights
from flip.training.diffusion.examples import Example, Latents, TextBank
from flip.training.schedule import lr_factor
from flip.training.settings import DiffusionSettings

if TYPE_CHECKING:
    from accelerate import Accelerator

    from flip.diffusion.pipeline import Pipeline
    from flip.training.diffusion.types import AveragedModel

log = logging.getLogger(__name__)


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
        self.examples, self._texts = examples, texts
        self._checkpoints = CheckpointFolder(checkpoints)
        self.batches = Batches(
            examples,
            latents,
            float(pipeline.vae.config.scaling_factor),
            diffusers.DDPMScheduler.from_config(pipeline.scheduler.config),
            settings,
            accelerator.process_index,
            accelerator.num_processes,
        )
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
        ema: AveragedModel = training_utils.EMAModel(self.parameters, decay=self.settings.ema)
        ema.to(self.accelerator.device)
        return ema

    @property
    def steps(self) -> int:
        """Steps of the whole training."""
        return self.settings.epochs * self.batches.steps_per_epoch

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
        batch = self.batches.draw(self.step)
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
        alphas, gamma = self.batches.noise.alphas_cumprod, self.settings.snr_gamma
        weights = snr_weights(alphas, batch.timesteps, gamma, velocity=self.batches.predicts_velocity)
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
        self._micro = max(1, min(self._micro, self.batches.photos_per_step) // 2)
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
            state: dict[str, object] = {"step": self.step, "loss": self.loss}
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
