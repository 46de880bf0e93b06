"""Settings of a study of extra images. Standard library only."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from flip.errors import ConfigError
from flip.names import HEADS
from flip.settings import at_least, flag, option, parse_shots

#: Kinds of extra images of a study.
ARMS = ("views", "text-to-image", "image-to-image", "shuffled")


@dataclass(frozen=True, kw_only=True)
class StudySettings:
    """What is compared, at which numbers of shots, and with which head."""

    shots: str = option("1,5,10,all", "Study only: training photos per class.")
    seeds: int = option(3, "Study only: draws for each number of --shots.")
    weights: str = option("0.1,0.3,1", "Study only: weight of an extra image against a photo.")
    per_photo: int = option(2, "Study only: extra images of each training photo, as many of each kind.")
    learner: str = option(
        "head",
        "Study only: what learns from the photos and images: a head on frozen features, or finetune: CLIP itself, "
        "as flip finetune --shots does.",
        choices=("head", "finetune"),
    )
    head: str = option("linear", "Study only: the head fitted on the photos' features.", choices=HEADS)
    arms: str = option(
        "views,text-to-image,image-to-image",
        "Study only: kinds of extra images, separated by commas; shuffled is text-to-image with captions of photos of "
        "other classes.",
    )
    plot: Path | None = option(
        None,
        "Study only: draw the curves into this .png, .svg or .pdf file. [default: study.svg in the folder]",
        writes="image",
    )

    def __post_init__(self) -> None:
        at_least("--seeds", self.seeds, 1)
        at_least("--per-photo", self.per_photo, 1)
        parse_shots(self.shots)
        parse_weights(self.weights)
        parse_arms(self.arms)


@dataclass(frozen=True, kw_only=True)
class ReproduceSettings:
    """Rows of the paper's table, and how much is spent on them."""

    only: str | None = option(
        None, "Rows to run, separated by commas: names, patterns such as 'full-*', or families. [default: all]"
    )
    seeds: int = option(3, "Draws of each clean few-shot row.")
    epochs: int = option(30, "Passes of the paper's fine-tuning; 30 in the paper.")
    tune_epochs: int | None = option(
        None, "Passes of the clean fine-tuning. [default: that of flip finetune; 15 for the sample's model]"
    )
    tune_lr: float | None = option(
        None, "Learning rate of the clean fine-tuning. [default: that of flip finetune; 1e-3 for the sample's model]"
    )
    per_class: int = option(5, "Images drawn per class for the row augmentation.")
    steps: int = option(15, "Denoising steps of each image; 50 in the paper.")
    augmented: Path | None = option(
        None, "Folder of generated images for the row augmentation, instead of drawing some."
    )

    def __post_init__(self) -> None:
        for name in ("seeds", "epochs", "per_class", "steps"):
            at_least(flag(name), getattr(self, name), 1)
        if self.tune_epochs is not None:
            at_least("--tune-epochs", self.tune_epochs, 1)
        if self.tune_lr is not None and self.tune_lr <= 0:
            raise ConfigError(f"--tune-lr {self.tune_lr:g} is not positive; pass for example 1e-5")


def parse_arms(text: str) -> tuple[str, ...]:
    """Return the kinds of extra images that ``--arms`` names.

    Raises
    ------
    ConfigError
        If one is none of them.
    """
    arms = tuple(dict.fromkeys(item.strip() for item in text.split(",")))
    for arm in arms:
        if arm not in ARMS:
            raise ConfigError(f"--arms {text!r}: {arm!r} is no kind of extra images; pass some of {', '.join(ARMS)}")
    return arms


def parse_weights(text: str) -> tuple[float, ...]:
    """Return the numbers that ``--weights`` names.

    Raises
    ------
    ConfigError
        If one is no positive number.
    """
    weights = []
    for item in text.split(","):
        try:
            weight = float(item)
        except ValueError:
            weight = math.nan
        if not 0 < weight < math.inf:
            raise ConfigError(f"--weights {text!r}: {item.strip()!r} is no positive number; pass for example 0.1,0.3,1")
        weights.append(weight)
    return tuple(dict.fromkeys(weights))
