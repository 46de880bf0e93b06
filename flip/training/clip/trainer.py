"""The training loop of a dual encoder: an epoch's draw, its steps, checkpoints between steps, validation after it."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from flip.clip.encoder import OpenClipEncoder
from flip.device import agree, keep_freed_memory, training_accelerator
from flip.errors import ConfigError, ModelError
from flip.training.checkpoints import Checkpoint, CheckpointFolder, Tensors, optimizer_tensors, restore_optimizer
from flip.training.clip.examples import EpochDraw, Examples, draw_epoch
from flip.training.clip.lora import attention_weights
from flip.training.clip.photos import TrainingPhotos
from flip.training.clip.state import EpochRow, TrainingState, epoch_line
from flip.training.clip.step import Batch, PairEncoder, backward_step
from flip.training.clip.trainable import LearningRates, clamp_scale, parameter_groups, trained, training_mode
from flip.training.clip.validation import Validation
from flip.training.listener import Listener, StepReport, StopRequest, interrupts
from flip.training.schedule import lr_factor
from flip.training.settings import FEW_SHOT_REPEATS, ClipSettings, Hardware

log = logging.getLogger(__name__)


class ClipTrainer:
    """One run of contrastive training.

    Parameters
    ----------
    model : OpenClipEncoder
        Its network is trained in place: the parameters that require gradients.
    examples : Examples
    validation : Validation
    rates : LearningRates
    settings : ClipSettings
    checkpoints : Path
        Folder of this run's checkpoints.
    hardware : Hardware
        Its precision is "fp32" or "bf16" (autocast over fp32 weights).
    listener : Listener, optional
    """

    def __init__(
        self,
        model: OpenClipEncoder,
        examples: Examples,
        validation: Validation,
        rates: LearningRates,
        settings: ClipSettings,
        checkpoints: Path,
        hardware: Hardware,
        listener: Listener | None = None,
    ) -> None:
        self.model, self.validation, self.rates = model, validation, rates
        self._examples = examples
        self._settings, self._workers = settings, hardware.workers
        self._listener = listener or Listener()
        self._checkpoints = CheckpointFolder(checkpoints)
        self._accelerator = training_accelerator(hardware.device, hardware.precision)
        if self._accelerator.device.type == "cpu":
            keep_freed_memory()
        self._photos = TrainingPhotos(examples, model.config["preprocess_cfg"])
        model.network.to(device=self._accelerator.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._encoder = self._accelerator.prepare_model(PairEncoder(model.network, keep=bool(settings.keep)))
        groups = parameter_groups(model.network, rates, settings.weight_decay)
        self._optimizer = torch.optim.AdamW(groups, lr=rates.image)
        self.batch = self._whole_batch()
        repeats = 1 if settings.shots is None else FEW_SHOT_REPEATS
        self.steps_per_epoch = max(1, round(repeats * examples.real / self.batch))
        self.state = TrainingState()

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        return self.steps_per_epoch * self._settings.epochs

    @property
    def is_main(self) -> bool:
        """Whether this process writes results."""
        return bool(self._accelerator.is_main_process)

    def how(self) -> str:
        """Return a description of the training for the user."""
        rates, steps = self.rates, self.steps_per_epoch
        lr = f"{rates.image:g}" if rates.image == rates.text else f"{rates.image:g} image, {rates.text:g} text"
        return f"batches of {self.batch}, {steps} steps per epoch; learning rate {lr} ({rates.reason})"

    def wait_for_everyone(self) -> None:
        """Return when every process has come here."""
        self._accelerator.wait_for_everyone()

    @property
    def unreadable(self) -> dict[int, str]:
        """Why training photos could not be read, by row of the examples."""
        return self._photos.unreadable

    def _whole_batch(self) -> int:
        """Return the number of photos that the loss compares: no more than there are, in equal parts."""
        parts = int(self._accelerator.num_processes) * self._settings.grad_accum
        batch = parts * min(self._settings.batch_size, max(1, self._examples.real // parts))
        if batch < 2:
            raise ConfigError(
                "a batch of one photo gives the contrastive loss nothing to compare; pass --batch-size 2 or more, "
                "and two photos or more to learn from"
            )
        return batch

    def resume(self) -> bool:
        """Load the latest checkpoint; returns whether there was one."""
        checkpoint = self._checkpoints.load()
        if checkpoint is None:
            return False
        self._load_weights(checkpoint.tensors["weights"])
        restore_optimizer(self._optimizer, checkpoint.tensors["optimizer"], dict(trained(self.model.network)))
        known = {k: v for k, v in checkpoint.state.items() if k in TrainingState.__dataclass_fields__}
        self.state = TrainingState(**known)
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
        Interrupted
            After the step in progress, with a checkpoint written.
        """
        if self.state.step == 0:
            scores = self.validation.scores()
            self.state.start_top1 = scores.top1 if scores else None
        with interrupts() as request:
            while self.state.step < self.steps and not self.state.stopped:
                self._train_epoch(request)
        self.take_best()

    def take_best(self) -> bool:
        """Give the network the weights of the best epoch; returns whether there was one."""
        if self.state.best_file is not None:
            self._load_weights(self._checkpoints.load_best(self.state.best_file))
        self.model.network.eval()
        return self.state.best_file is not None

    def finish(self) -> None:
        """Remove the checkpoints, once the result is written."""
        if self._accelerator.is_main_process:
            self._checkpoints.remove()

    def _train_epoch(self, request: StopRequest) -> None:
        settings, start = self._settings, time.perf_counter()
        epoch, first = divmod(self.state.step, self.steps_per_epoch)
        draw = draw_epoch(
            self._examples,
            self.steps_per_epoch * self.batch,
            seed=settings.seed,
            epoch=epoch,
            caption_share=settings.caption_share,
            generated_share=settings.augmented_weight,
        )
        before = self.state.seconds
        for batches, labels in self._steps_of(draw, first):
            self._step(batches, labels)
            self.state.seconds = before + time.perf_counter() - start
            last = self.state.step % self.steps_per_epoch == 0
            stop = not last and agree(self._accelerator, bool(request))
            if stop or (not last and self.state.step % settings.save_every == 0):
                self._save()
            if stop:
                raise request.interruption()
        self._end_epoch(epoch + 1)
        self.state.seconds = before + time.perf_counter() - start
        self._save()
        if agree(self._accelerator, bool(request)):
            raise request.interruption()

    def _steps_of(self, draw: EpochDraw, first: int) -> Iterator[tuple[list[Batch], torch.Tensor]]:
        """Yield this process's batches of each step from ``first`` on, and the labels of the whole step."""
        device, part = self._accelerator.device, self.batch // self._accelerator.num_processes
        size, offset = part // self._settings.grad_accum, self._accelerator.process_index * part
        slices = [
            slice(step * self.batch + offset + i * size, step * self.batch + offset + (i + 1) * size)
            for step in range(first, self.steps_per_epoch)
            for i in range(self._settings.grad_accum)
        ]
        pixels = self._photos.batches([draw.rows[s] for s in slices], [draw.crops[s] for s in slices], self._workers)
        labels = torch.from_numpy(self._examples.labels[draw.rows])
        batches: list[Batch] = []
        try:
            for s, decoded in zip(slices, pixels, strict=True):
                tokens = self._examples.tokens[torch.from_numpy(draw.texts[s])].to(device)
                batches.append(Batch(self._photos.to_network(decoded, device), tokens))
                if len(batches) == self._settings.grad_accum:
                    start = s.stop - offset - part
                    yield batches, labels[start : start + self.batch].to(device)
                    batches = []
        finally:
            pixels.close()

    def _step(self, batches: list[Batch], labels: torch.Tensor) -> None:
        settings, step = self._settings, self.state.step
        training_mode(self.model.network, batch_norm=settings.from_scratch is not None)
        factor = lr_factor(step, self.steps, settings.warmup, then="cosine")
        for group in self._optimizer.param_groups:
            group["lr"] = factor * group["peak_lr"]
        self._optimizer.zero_grad(set_to_none=True)
        loss = backward_step(
            self._encoder, batches, labels, self._accelerator, settings.seed + step, settings.keep or 0.0
        )
        norm = torch.nn.utils.clip_grad_norm_([p for _, p in trained(self.model.network)], settings.clip_grad)
        if not (math.isfinite(loss) and bool(torch.isfinite(norm))):
            raise ModelError(self._diverged(loss))
        self._optimizer.step()
        clamp_scale(self.model.network)
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
        scores = self.validation.scores()
        state = self.state
        row: EpochRow = {
            "epoch": epoch,
            "step": state.step,
            "loss": state.loss_sum / self.steps_per_epoch,
            "val_loss": scores.loss if scores else None,
            "val_top1": scores.top1 if scores else None,
            "logit_scale": self.model.logit_scale,
            "seconds": state.seconds,
        }
        row = agree(self._accelerator, row)
        state.history.append(row)
        state.loss_sum = 0.0
        if not state.best_epoch or self._rank(row) > self._rank(state.best):
            state.best_epoch = epoch
            if self._accelerator.is_main_process:
                state.best_file = self._checkpoints.save_best(epoch, self._weights())
            state.best_file = agree(self._accelerator, state.best_file)
        elif self._settings.patience and epoch - state.best_epoch >= self._settings.patience:
            state.stopped = True
        log.info(epoch_line(row, self._settings.epochs))
        self._listener.on_epoch(row)

    @staticmethod
    def _rank(row: EpochRow) -> float:
        """Return the rank of an epoch, the best highest: by validation loss; without validation by age.

        The accuracy of the few photos that training can spare moves by whole photos, and by chance prefers an epoch in
        the middle of the schedule.
        """
        return float(row["epoch"] if row["val_loss"] is None else -row["val_loss"])

    def _weights(self) -> Tensors:
        """Return the tensors that training changes: parameters, and BatchNorm's statistics where they are learned."""
        network = self.model.network
        weights: Tensors = {name: p.detach() for name, p in trained(network)}
        if self._settings.rank is not None:
            weights |= {name: p.detach() for name, p in attention_weights(network)}
        if self._settings.from_scratch is not None:
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
            names: dict[torch.Tensor, str] = {p: name for name, p in trained(self.model.network)}
            state = vars(self.state) | {"unreadable": self._photos.unreadable}
            tensors = {"weights": self._weights(), "optimizer": optimizer_tensors(self._optimizer, names)}
            self._checkpoints.save(Checkpoint(tensors, state))
        self._accelerator.wait_for_everyone()
