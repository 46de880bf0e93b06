"""The training of a diffusion model, one step at a time: every random number depends on the seed and the step alone."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from flip.diffusion.diffusers_api import diffusers, training_utils
from flip.diffusion.painter import free_memory, is_out_of_memory
from flip.errors import CheckpointError, ConfigError
from flip.files import written_aside
from flip.training.diffusion.examples import Example, Latents, TextBank


@dataclass(frozen=True, kw_only=True)
class DiffusionTraining:
    """How a diffusion model is trained; every default of ``flip finetune --target diffusion`` is one of these.

    Attributes
    ----------
    epochs, batch_size, grad_accum : int
        A step learns from ``batch_size * grad_accum`` photos of each process.
    lr : float or None
        1e-5 for the whole U-Net, 1e-4 for LoRA when None.
    warmup : float
        Share of the steps in which the learning rate rises; afterwards it stays.
    lora : int or None
        Rank of low-rank additions to the attention; None trains the U-Net itself.
    caption_share : float
        How often a photo that has captions goes with one of them, and not with its class prompt.
    caption_dropout : float
        How often it goes with no text at all, which is what guidance needs (Ho & Salimans, 2022).
    ema : float
        Largest decay of the averaged weights, which are what is saved; 0 keeps none.
    snr_gamma : float
        Steps with little noise weigh min(SNR, gamma) / SNR (Hang et al., ICCV 2023); 0 weighs all the same.
    views : int
        Views of each photo that are encoded beforehand.
    """

    epochs: int = 10
    batch_size: int = 16
    grad_accum: int = 1
    grad_checkpointing: bool = False
    lr: float | None = None
    warmup: float = 0.1
    weight_decay: float = 0.01
    clip_grad: float = 1.0
    save_every: int = 50
    lora: int | None = None
    seed: int = 0
    size: int | None = None
    caption_share: float = 0.5
    caption_dropout: float = 0.1
    ema: float = 0.9999
    snr_gamma: float = 5.0
    sample_every: int = 0
    views: int = 4

    @property
    def peak_lr(self) -> float:
        """The learning rate after the warm-up."""
        return self.lr if self.lr is not None else 1e-4 if self.lora else 1e-5


class Batch(NamedTuple):
    """A process's share of one step, on the CPU: noisy latents, what the U-Net shall say, timesteps, texts."""

    noisy: torch.Tensor
    target: torch.Tensor
    timesteps: torch.Tensor
    texts: tuple[str, ...]

    def part(self, rows: slice) -> Batch:
        """Return some of the photos."""
        return Batch(self.noisy[rows], self.target[rows], self.timesteps[rows], self.texts[rows])


class Trainer:
    """A U-Net that learns.

    Parameters
    ----------
    pipeline : diffusers.StableDiffusionPipeline
        Its U-Net is trained, and its text encoder where that has gradients.
    accelerator : accelerate.Accelerator
    examples : sequence of Example
    latents : Latents
    texts : TextBank
    settings : DiffusionTraining
    say : callable
        Called with one line when memory does not suffice and smaller parts are tried.
    """

    def __init__(
        self,
        pipeline: Any,
        accelerator: Any,
        examples: Sequence[Example],
        latents: Latents,
        texts: TextBank,
        settings: DiffusionTraining,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.settings, self._accelerator = settings, accelerator
        self._examples, self._latents, self._texts, self._say = examples, latents, texts, say
        self._scaling = float(pipeline.vae.config.scaling_factor)
        self._noise = diffusers.DDPMScheduler.from_config(pipeline.scheduler.config)
        learning = [p for part in (pipeline.unet, pipeline.text_encoder) for p in part.parameters() if p.requires_grad]
        self.parameters = learning
        optimizer = torch.optim.AdamW(learning, lr=settings.peak_lr, weight_decay=settings.weight_decay)
        self._unet, self._optimizer = accelerator.prepare(pipeline.unet, optimizer)
        self.ema = self._make_ema()
        self._micro = settings.batch_size
        self.step = 0

    def _make_ema(self) -> Any:
        if not self.settings.ema:
            return None
        # diffusers' average follows quickly at first: its decay is at most (1 + step) / (10 + step).
        ema = training_utils.EMAModel(self.parameters, decay=self.settings.ema)
        ema.to(self._accelerator.device)
        return ema

    @property
    def photos_a_step(self) -> int:
        """Photos that all processes together learn from in a step."""
        s = self.settings
        return min(s.batch_size * s.grad_accum * int(self._accelerator.num_processes), len(self._latents.numbers))

    @property
    def steps_an_epoch(self) -> int:
        """Steps that go through the photos once; what is left over of an epoch is left out."""
        return len(self._latents.numbers) // self.photos_a_step

    @property
    def steps(self) -> int:
        """Steps of the whole training."""
        return self.settings.epochs * self.steps_an_epoch

    def learning_rate(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        rising = self.settings.warmup * self.steps
        return self.settings.peak_lr * min(1.0, (step + 1) / rising if rising else 1.0)

    def train_step(self) -> float:
        """Learn from the next photos and return the loss.

        Raises
        ------
        ConfigError
            If memory does not suffice for a single photo, or the loss is no number.
        """
        batch = self._batch(self.step)
        loss = self._mean(self._gradients_within_memory(batch))
        if not np.isfinite(loss):
            raise ConfigError(
                f"the loss is {loss} at step {self.step}; pass a smaller --lr than {self.settings.peak_lr:g}"
            )
        self._accelerator.clip_grad_norm_(self.parameters, self.settings.clip_grad)
        for group in self._optimizer.param_groups:
            group["lr"] = self.learning_rate(self.step)
        self._optimizer.step()
        if self.ema is not None:
            self.ema.step(self.parameters)
        self.step += 1
        return loss

    def _mean(self, loss: float) -> float:
        """Return the mean over the processes, so that all of them see the same."""
        if self._accelerator.num_processes == 1:
            return loss
        return float(self._accelerator.reduce(torch.tensor(loss, device=self._accelerator.device), "mean"))

    def _batch(self, step: int) -> Batch:
        s, world, rank = self.settings, self._accelerator.num_processes, self._accelerator.process_index
        epoch, turn = divmod(step, self.steps_an_epoch)
        order = np.random.default_rng([s.seed, 1, epoch]).permutation(len(self._latents.numbers))
        rows = order[turn * self.photos_a_step : (turn + 1) * self.photos_a_step][rank::world]
        chance = np.random.default_rng([s.seed, 2, step, rank])
        torch_chance = torch.Generator().manual_seed(int(chance.integers(2**62)))
        shape = self._latents.mean.shape[2:]
        clean = torch.stack(
            [
                self._latents.sample(row, int(chance.integers(self._latents.mean.shape[1])), noise)
                for row, noise in zip(rows, torch.randn((len(rows), *shape), generator=torch_chance), strict=True)
            ]
        )
        clean = clean * self._scaling
        noise = torch.randn(clean.shape, generator=torch_chance)
        timesteps = spread_timesteps(len(rows), self._noise.config.num_train_timesteps, torch_chance)
        velocity = self._noise.config.prediction_type == "v_prediction"
        target = self._noise.get_velocity(clean, noise, timesteps) if velocity else noise
        texts = tuple(self._text(self._examples[self._latents.numbers[row]], chance) for row in rows)
        return Batch(self._noise.add_noise(clean, noise, timesteps), target, timesteps, texts)

    def _text(self, example: Example, chance: np.random.Generator) -> str:
        dropped, captioned, pick = chance.random(3)
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
        """Gather the gradients of a batch in parts, as if it had gone through at once."""
        self._optimizer.zero_grad(set_to_none=True)
        count, total = len(batch.texts), 0.0
        for start in range(0, count, self._micro):
            part = slice(start, start + self._micro)
            last = start + self._micro >= count
            together = contextlib.nullcontext() if last else self._accelerator.no_sync(self._unet)
            with together:
                loss = self._loss(batch.part(part)) / count
                self._accelerator.backward(loss)
            total += float(loss.detach())
        return total

    def _loss(self, batch: Batch) -> torch.Tensor:
        """Return the sum over photos of the weighted mean squared error."""
        device = self._accelerator.device
        timesteps = batch.timesteps.to(device)
        with self._accelerator.autocast():
            states = self._texts.take(batch.texts, device)
            said = self._unet(batch.noisy.to(device), timesteps, encoder_hidden_states=states).sample
        error = (said.float() - batch.target.to(device)).square().mean(dim=(1, 2, 3))
        velocity = self._noise.config.prediction_type == "v_prediction"
        weights = snr_weights(self._noise.alphas_cumprod, batch.timesteps, self.settings.snr_gamma, velocity=velocity)
        total: torch.Tensor = (error * weights.to(device)).sum()
        return total

    def _halve(self) -> None:
        self._optimizer.zero_grad(set_to_none=True)
        free_memory()
        if self._micro == 1 or self._accelerator.num_processes > 1:
            raise ConfigError(
                f"memory does not suffice for {self._micro} photos at once; pass a smaller --size, --batch-size 1, "
                "--grad-checkpointing, --precision bf16, or --lora 8"
            )
        self._micro = max(1, min(self._micro, self.photos_a_step) // 2)
        self._say(f"memory does not suffice; going on with {self._micro} photos at once, and as many a step as before")

    @contextlib.contextmanager
    def averaged_weights(self) -> Any:
        """Put the averaged weights into the model for a while."""
        if self.ema is None:
            yield
            return
        self.ema.store(self.parameters)
        self.ema.copy_to(self.parameters)
        try:
            yield
        finally:
            self.ema.restore(self.parameters)

    def save(self, file: Path, decided: dict[str, Any]) -> None:
        """Write all that the next step depends on."""
        state = {
            "decided": decided,
            "step": self.step,
            "parameters": [p.detach().cpu() for p in self.parameters],
            "optimizer": self._optimizer.state_dict(),
            "ema": self.ema.state_dict() if self.ema is not None else None,
        }
        with written_aside(file, "pass -o with a folder that can hold it") as aside:
            torch.save(state, aside)

    def load(self, file: Path, decided: dict[str, Any]) -> None:
        """Go back to where ``save`` was called.

        Raises
        ------
        CheckpointError
            If the file cannot be read.
        ConfigError
            If the training was begun with other settings.
        """
        try:
            state = torch.load(file, map_location="cpu", weights_only=True)
            before = state["decided"]
        except Exception as e:
            reason = " ".join(str(e).split())[:120]
            raise CheckpointError(f"{file} cannot be gone on from ({reason}); pass --overwrite to begin anew") from e
        changed = [name for name in decided if before.get(name) != decided[name]]
        if changed:
            raise ConfigError(
                f"the run in {file.parent} was begun with another {', '.join(changed)}; pass the same, or --overwrite"
            )
        with torch.no_grad():
            for parameter, value in zip(self.parameters, state["parameters"], strict=True):
                parameter.copy_(value)
        self._optimizer.load_state_dict(state["optimizer"])
        if self.ema is not None:
            self.ema.load_state_dict(state["ema"])
            self.ema.to(self._accelerator.device)
        self.step = int(state["step"])


def spread_timesteps(count: int, timesteps: int, generator: torch.Generator) -> torch.Tensor:
    """Return timesteps, int64 (count,), each uniform on 0 to ``timesteps`` - 1, and together spread evenly over them.

    A step's loss then varies less by which timesteps it drew (low-discrepancy sampling: Kingma et al., NeurIPS 2021).
    """
    start = torch.rand((), generator=generator)
    spread = (start + torch.randperm(count, generator=generator) / count) % 1
    return (spread * timesteps).long().clamp(max=timesteps - 1)


def snr_weights(
    alphas_cumprod: torch.Tensor, timesteps: torch.Tensor, gamma: float, *, velocity: bool = False
) -> torch.Tensor:
    """Return the min-SNR weights of timesteps, shape (n,): Hang et al., ICCV 2023, section 3.4.

    SNR(t) is alpha_t / (1 - alpha_t) with the cumulative alpha; a network that tells the noise weighs
    min(SNR, gamma) / SNR, one that tells the velocity min(SNR, gamma) / (SNR + 1).
    """
    if not gamma:
        return torch.ones(len(timesteps))
    alphas = alphas_cumprod.cpu()[timesteps].double()
    snr = alphas / (1 - alphas)
    return (snr.clamp(max=gamma) / (snr + 1 if velocity else snr)).float()
