"""Settings of both fine-tunings. Standard library only: the command line makes its options from them at start."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from flip.errors import ConfigError
from flip.settings import at_least, in_range, option, parse_count, parse_shots

#: Rank of the low-rank additions that ``--shots`` trains (CLIP-LoRA: Zanella & Ben Ayed, CVPRW 2024), and how often
#: each photo comes in an epoch then.
FEW_SHOT_RANK, FEW_SHOT_REPEATS = 2, 10


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """What both fine-tunings share."""

    epochs: int = option(10, "Passes over the training photos.")
    batch_size: int = option(64, "Photos that go through the network together.")
    grad_accum: int = option(1, "Batches per step; CLIP's loss compares all of their photos.")
    grad_checkpointing: bool = option(False, "Compute activations again in the backward pass: less memory, more time.")
    lr: float | None = option(
        None,
        "Peak learning rate. [default: for CLIP 1e-5 for a transformer tower, 3e-4 for a convolutional one (5e-5 where "
        "the model names most photos already), ten times that with --lora, with --shots 2e-4 or 1e-3; for diffusion "
        "1e-5, with --lora 1e-4]",
    )
    warmup: float = option(0.1, "Share of the steps in which the learning rate rises.")
    weight_decay: float = option(0.05, "Weight decay of AdamW; CLIP's biases, norms and embeddings have none.")
    clip_grad: float = option(1.0, "Largest norm of the gradient.")
    save_every: int = option(50, "Steps between two checkpoints, from which an interrupted run resumes.")
    lora: int | None = option(None, "Train low-rank additions of this rank (LoRA) instead of the weights.")
    prompts: str = option("plain", "Prompts of the classes, as in flip zeroshot.")
    caption_share: float = option(
        0.5, "How often a photo that has captions is paired with one rather than with its class prompt."
    )
    from_scratch: Path | None = option(
        None,
        "Configuration (JSON) to train from random weights: of open_clip, of a diffusion model's parts, or sample.",
    )
    seed: int = option(0, "Seed of everything random.")

    def __post_init__(self) -> None:
        """Raise a ConfigError for a value that cannot be carried out."""
        at_least("--epochs", self.epochs, 1)
        at_least("--batch-size", self.batch_size, 1)
        at_least("--grad-accum", self.grad_accum, 1)
        at_least("--save-every", self.save_every, 1)
        if self.lora is not None:
            at_least("--lora", self.lora, 1)
        in_range("--warmup", self.warmup, 0, 1, "0.1")
        in_range("--caption-share", self.caption_share, 0, 1, "0.5")
        if self.lr is not None and self.lr <= 0:
            raise ConfigError(f"--lr {self.lr:g} is not positive; pass for example 1e-5")
        if self.clip_grad <= 0:
            raise ConfigError(f"--clip-grad {self.clip_grad:g} is not positive; pass for example 1")


@dataclass(frozen=True, kw_only=True)
class ClipSettings(TrainingSettings):
    """How a dual encoder is fine-tuned."""

    train: Literal["full", "image", "text", "projection"] | None = option(
        None,
        "What is trained: both towers, one, or the last layers; with --shots the image tower's last layer alone, held "
        "near to what it was. [default: full]",
    )
    shots: str | None = option(
        None,
        "Training photos per class, or all: those that flip hybrid --shots draws with the same seed; all of them "
        "train, and none validates. Without --train or --lora, low-rank additions of rank 2 are trained.",
    )
    val_fraction: float = option(
        0.1, "Share of each class's training photos that choose the epoch, without a val split and --shots."
    )
    patience: int = option(5, "Stop after this many epochs without a better one; 0 never stops early.")
    keep: float | None = option(
        None,
        "LDIFS: weight of the distance between image features now and before; more forgets less and learns less. "
        "[default: 0; 1 where a model names most photos already and no --lr, --wise or --shots is given]",
    )
    wise: str | None = option(
        None,
        "WiSE-FT: weight from 0 (before) to 1 (after) of the fine-tuned model in the average saved, or sweep. "
        "[default: 1; 0.5 where --keep is 1 by default]",
    )
    holdout_classes: int = option(0, "Leave the last N classes out of training, and measure what is forgotten on them.")
    retain: str | None = option(None, "Other data whose zero-shot is measured before and after.")
    no_scores: bool = option(False, "Do not score the test photos before and after.")
    augmented: Path | None = option(None, "Folder of generated images of the same classes, which join training only.")
    augmented_weight: float = option(0.1, "Share of each batch that is drawn from --augmented.")

    def __post_init__(self) -> None:
        TrainingSettings.__post_init__(self)
        at_least("--holdout-classes", self.holdout_classes, 0)
        at_least("--patience", self.patience, 0)
        in_range("--val-fraction", self.val_fraction, 0, 0.5, "0.1")
        in_range("--augmented-weight", self.augmented_weight, 0, 1, "0.1")
        if self.keep is not None and self.keep < 0:
            raise ConfigError(f"--keep {self.keep:g} is negative; pass for example 1, or 0 for no such term")
        parse_wise(self.wise)
        if self.shots is not None:
            self._require_few_shot()

    def _require_few_shot(self) -> None:
        """Raise a ConfigError for what does not go with ``--shots``."""
        if len(parse_shots(self.shots)) > 1:
            raise ConfigError(f"--shots {self.shots}: a run makes one model; pass one number, and run it for each")
        if self.from_scratch is not None:
            raise ConfigError(
                "--from-scratch begins with random weights, and few photos do not train them; leave one out"
            )
        if self.wise == "sweep" and not self.holdout_classes:
            raise ConfigError(
                "--wise sweep chooses by photos that are not trained on, and --shots leaves none; pass --wise 0.5, or "
                "--holdout-classes N"
            )
        if self.few_shot_projection and self.keep:
            raise ConfigError("--train projection with --shots holds the weights themselves near; leave out --keep")

    @property
    def part(self) -> str:
        """The part that is trained: "full", "image", "text" or "projection"."""
        return self.train or "full"

    @property
    def rank(self) -> int | None:
        """The rank of low-rank additions, None where the weights themselves are trained."""
        return FEW_SHOT_RANK if self.lora is None and self.train is None and self.shots is not None else self.lora

    @property
    def few_shot_projection(self) -> bool:
        """Whether the image tower's projection alone is trained, on features that are computed once."""
        return self.shots is not None and self.train == "projection" and self.lora is None


@dataclass(frozen=True, kw_only=True)
class DiffusionSettings(TrainingSettings):
    """How a diffusion model is fine-tuned."""

    size: int | None = option(None, "Diffusion only: pixels per side. [default: the model's own]")
    caption_dropout: float = option(
        0.1, "Diffusion only: how often a photo is paired with no text, which guidance needs (Ho & Salimans, 2022)."
    )
    ema: float = option(0.9999, "Diffusion only: largest decay of the averaged weights that are saved; 0 keeps none.")
    snr_gamma: float = option(5.0, "Diffusion only: min-SNR weighting of the noise levels; 0 weighs all the same.")
    views: int = option(4, "Diffusion only: random crops of each photo that are encoded beforehand.")
    sample_every: int = option(0, "Diffusion only: steps between two sheets of samples; 0 draws none.")

    def __post_init__(self) -> None:
        TrainingSettings.__post_init__(self)
        parse_square(self.size)
        in_range("--caption-dropout", self.caption_dropout, 0, 1, "0.1")
        in_range("--ema", self.ema, 0, 1, "0.9999")
        at_least("--views", self.views, 1)
        at_least("--sample-every", self.sample_every, 0)
        if self.snr_gamma < 0:
            raise ConfigError(f"--snr-gamma {self.snr_gamma:g} is negative; pass for example 5, or 0 for no weighting")

    @property
    def peak_lr(self) -> float:
        """The learning rate after the warm-up."""
        return self.lr if self.lr is not None else 1e-4 if self.lora else 1e-5


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """Where and in which number format a network is trained, and what reads its photos.

    Attributes
    ----------
    device : {"auto", "cpu", "cuda", "mps"}
    precision : {"auto", "fp32", "bf16"}
        bf16 is autocast over fp32 weights.
    workers : int or None
        Threads that decode photos; one per CPU core when None.
    """

    device: str = "auto"
    precision: str = "auto"
    workers: int | None = None


DEFAULT_HARDWARE = Hardware()


def parse_wise(text: str | None) -> float | None:
    """Return the weight that ``--wise`` names, or None for ``sweep`` and for none.

    Raises
    ------
    ConfigError
        If the text is neither a number from 0 to 1 nor ``sweep``.
    """
    if text is None or text == "sweep":
        return None
    try:
        weight = float(text)
    except ValueError:
        weight = -1.0
    if not 0 <= weight <= 1:
        raise ConfigError(f"--wise {text!r} is not a weight; pass a number from 0 to 1, or sweep")
    return weight


def parse_square(size: str | int | None) -> int | None:
    """Return the pixels per side of a square that ``--size`` names, or None for the model's own.

    Raises
    ------
    ConfigError
        If it is neither ``512`` nor ``512x512``, or no positive multiple of 8.
    """
    if size is None:
        return None
    width, x, height = str(size).lower().partition("x")
    sides = [parse_count(side) for side in (width, height if x else width)]
    if not all(side and side % 8 == 0 for side in sides):
        raise ConfigError(f"--size {size} is no size; pass one number such as 512, a multiple of 8")
    if sides[0] != sides[1]:
        raise ConfigError(f"--size {size} is no square; photos are cut to squares for training: pass one number")
    return sides[0]
