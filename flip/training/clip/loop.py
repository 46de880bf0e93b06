"""The training loop: an epoch's draw, step by step, checkpoints between steps, a validation after each epoch."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from flip.clip.model import ClipModel
from flip.config import FinetuneConfig, worker_count
from flip.device import agree, keep_freed_memory, training_accelerator
from flip.errors import ConfigError, ModelError
from flip.training.clip.checkpoint import Checkpoint, CheckpointFolder, Tensors, optimizer_tensors, restore_optimizer
from flip.training.clip.examples import Draw, Examples, draw_epoch
from flip.training.clip.lora import attention_weights
from flip.training.clip.photos import TrainingPhotos
from flip.training.clip.state import Listener, RunState, StepReport, interrupts
from flip.training.clip.step import Batch, PairEncoder, backward_step
from flip.training.clip.trainable import (
    LearningRates,
    clamp_scale,
    parameter_groups,
    schedule,
    trained,
    training_mode,
)
from flip.training.clip.validation import Validation


class Training:
    """One run of contrastive training.

    Parameters
    ----------
    model : ClipModel
        Its network is trained in place; which parameters is set already.
    examples : Examples
    validation : Validation
    rates : LearningRates
    config : FinetuneConfig
    checkpoints : Path
        Folder of this run's checkpoints.
    precision : {"fp32", "bf16"}
        bf16 is autocast over fp32 weights.
    listener : Listener
    """

    def __init__(
        self,
        model: ClipModel,
        examples: Examples,
        validation: Validation,
        rates: LearningRates,
        config: FinetuneConfig,
        checkpoints: Path,
        precision: str = "fp32",
        listener: Listener | None = None,
    ) -> None:
        self._model, self._examples, self._validation = model, examples, validation
        self._config, self._listener = config, listener or Listener()
        self._checkpoints = CheckpointFolder(checkpoints)
        self._accelerator = training_accelerator(config.device, precision)
        if self._accelerator.device.type == "cpu":
            keep_freed_memory()
        self._photos = TrainingPhotos(examples, model.config["preprocess_cfg"])
        model.network.to(device=self._accelerator.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._encoder = self._accelerator.prepare_model(PairEncoder(model.network, keep=config.keep > 0))
        groups = parameter_groups(model.network, rates, config.weight_decay)
        self._optimizer = torch.optim.AdamW(groups, lr=rates.image)
        self.batch = self._whole_batch()
        self.steps_per_epoch = max(1, round(examples.own / self.batch))
        self.state = RunState()

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        return self.steps_per_epoch * self._config.epochs

    @property
    def unreadable(self) -> dict[int, str]:
        """Why training photos could not be read, by row of the examples."""
        return self._photos.unreadable

    def _whole_batch(self) -> int:
        """Return how many photos the loss compares: no more than there are, in equal parts."""
        parts = int(self._accelerator.num_processes) * self._config.grad_accum
        batch = parts * min(self._config.batch_size, max(1, self._examples.own // parts))
        if batch < 2:
            raise ConfigError(
                "a batch of one photo gives the contrastive loss nothing to compare; pass --batch-size 2 or more, "
                "and two photos or more to learn from"
            )
        return batch

    def resume(self) -> bool:
        """Take up the latest checkpoint; returns whether there was one."""
        checkpoint = self._checkpoints.load()
        if checkpoint is None:
            return False
        self._load_weights(checkpoint.weights)
        restore_optimizer(self._optimizer, checkpoint.optimizer, dict(trained(self._model.network)))
        known = {k: v for k, v in checkpoint.state.items() if k in RunState.__dataclass_fields__}
        self.state = RunState(**known)
        self._photos.unreadable.update({int(k): v for k, v in checkpoint.state["unreadable"].items()})
        return True

    def train(self) -> None:
        """Train until the last epoch, or until no epoch is better; then take the weights of the best.

        Raises
        ------
        ModelError
            If the loss is no longer a number.
        CheckpointError
            If a checkpoint cannot be written.
        KeyboardInterrupt
            After the step in progress, with a checkpoint written.
        """
        if self.state.step == 0:
            scores = self._validation.scores()
            self.state.start_top1 = scores.top1 if scores else None
        with interrupts() as interrupted:
            while self.state.step < self.steps and not self.state.stopped:
                self._train_epoch(interrupted)
        self.take_best()

    def take_best(self) -> bool:
        """Give the network the weights of the best epoch; returns whether there was one."""
        if self.state.best_file is not None:
            self._load_weights(self._checkpoints.load_best(self.state.best_file))
        self._model.network.eval()
        return self.state.best_file is not None

    def finish(self) -> None:
        """Remove the checkpoints, once the result is written."""
        if self._accelerator.is_main_process:
            self._checkpoints.remove()

    def _train_epoch(self, interrupted: threading.Event) -> None:
        config, start = self._config, time.perf_counter()
        epoch, first = divmod(self.state.step, self.steps_per_epoch)
        draw = draw_epoch(
            self._examples,
            self.steps_per_epoch * self.batch,
            seed=config.seed,
            epoch=epoch,
            caption_share=config.caption_share,
            extra_share=config.augmented_weight,
        )
        before = self.state.seconds
        for batches, labels in self._steps_of(draw, first):
            self._step(batches, labels)
            self.state.seconds = before + time.perf_counter() - start
            stop = agree(self._accelerator, interrupted.is_set())
            last = self.state.step % self.steps_per_epoch == 0
            if not last and (stop or self.state.step % config.save_every == 0):
                self._save()
            if stop and not last:
                raise KeyboardInterrupt
        self._end_epoch(epoch + 1)
        self.state.seconds = before + time.perf_counter() - start
        self._save()
        if interrupted.is_set():
            raise KeyboardInterrupt

    def _steps_of(self, draw: Draw, first: int) -> Iterator[tuple[list[Batch], torch.Tensor]]:
        """Yield this process's batches of each step from ``first`` on, and the labels of the whole step."""
        device, part = self._accelerator.device, self.batch // self._accelerator.num_processes
        size, offset = part // self._config.grad_accum, self._accelerator.process_index * part
        slices = [
            slice(step * self.batch + offset + i * size, step * self.batch + offset + (i + 1) * size)
            for step in range(first, self.steps_per_epoch)
            for i in range(self._config.grad_accum)
        ]
        pixels = self._photos.batches(
            [draw.rows[s] for s in slices], [draw.views[s] for s in slices], worker_count(self._config.workers)
        )
        labels = torch.from_numpy(self._examples.labels[draw.rows])
        batches: list[Batch] = []
        try:
            for s, decoded in zip(slices, pixels, strict=True):
                tokens = self._examples.tokens[torch.from_numpy(draw.texts[s])].to(device)
                batches.append(Batch(self._photos.to_network(decoded, device), tokens))
                if len(batches) == self._config.grad_accum:
                    start = s.stop - offset - part
                    yield batches, labels[start : start + self.batch].to(device)
                    batches = []
        finally:
            pixels.close()

    def _step(self, batches: list[Batch], labels: torch.Tensor) -> None:
        config, step = self._config, self.state.step
        training_mode(self._model.network, batch_norm=config.from_scratch is not None)
        factor = schedule(step, self.steps, config.warmup)
        for group in self._optimizer.param_groups:
            group["lr"] = factor * group["peak_lr"]
        self._optimizer.zero_grad(set_to_none=True)
        loss = backward_step(self._encoder, batches, labels, self._accelerator, config.seed + step, config.keep)
        norm = torch.nn.utils.clip_grad_norm_([p for _, p in trained(self._model.network)], config.clip_grad)
        if not (math.isfinite(loss) and bool(torch.isfinite(norm))):
            raise ModelError(self._diverged(loss))
        self._optimizer.step()
        clamp_scale(self._model.network)
        self.state.step, self.state.loss_sum = step + 1, self.state.loss_sum + loss
        self._listener.on_step(StepReport(self.state.step, self.steps, loss, self.batch))

    def _diverged(self, loss: float) -> str:
        what = "the loss" if not math.isfinite(loss) else "the gradient"
        kept = (
            f"epoch {self.state.best_epoch} is the last good one and is kept"
            if self.state.best_epoch
            else "no epoch was done"
        )
        peak = max(group["peak_lr"] for group in self._optimizer.param_groups)
        return f"{what} is not a number at step {self.state.step + 1} of {self.steps}; {kept}; pass --lr below {peak:g}"

    def _end_epoch(self, epoch: int) -> None:
        scores = self._validation.scores()
        state = self.state
        row = {
            "epoch": epoch,
            "step": state.step,
            "loss": state.loss_sum / self.steps_per_epoch,
            "val_loss": scores.loss if scores else None,
            "val_top1": scores.top1 if scores else None,
            "logit_scale": self._model.logit_scale,
            "seconds": state.seconds,
        }
        row = agree(self._accelerator, row)
        state.history.append(row)
        state.loss_sum = 0.0
        if not state.best_epoch or self._rank(row) > self._rank(state.history[state.best_epoch - 1]):
            state.best_epoch = epoch
            if self._accelerator.is_main_process:
                state.best_file = self._checkpoints.save_best(epoch, self._weights())
            state.best_file = agree(self._accelerator, state.best_file)
        elif self._config.patience and epoch - state.best_epoch >= self._config.patience:
            state.stopped = True
        self._listener.on_epoch(row)

    @staticmethod
    def _rank(row: dict[str, Any]) -> float:
        """Return what makes an epoch better: a lower validation loss; without validation a later one is.

        The accuracy of the few photos that training can spare moves by whole photos, and by chance prefers an epoch in
        the middle of the schedule.
        """
        return float(row["epoch"] if row["val_loss"] is None else -row["val_loss"])

    def _weights(self) -> Tensors:
        """Return what training changes: parameters, and BatchNorm's statistics where they are learned."""
        network = self._model.network
        weights: Tensors = {name: p.detach() for name, p in trained(network)}
        if self._config.lora is not None:
            weights |= {name: p.detach() for name, p in attention_weights(network)}
        if self._config.from_scratch is not None:
            persistent = network.state_dict()
            weights |= {name: buffer for name, buffer in network.named_buffers() if name in persistent}
        return weights

    def _load_weights(self, weights: Tensors) -> None:
        own = self._weights()
        with torch.no_grad():
            for name, tensor in weights.items():
                own[name].copy_(tensor)

    def _save(self) -> None:
        if self._accelerator.is_main_process:
            names = {p: name for name, p in trained(self._model.network)}
            state = vars(self.state) | {"unreadable": self._photos.unreadable}
            self._checkpoints.save(Checkpoint(self._weights(), optimizer_tensors(self._optimizer, names), state))
        self._accelerator.wait_for_everyone()
