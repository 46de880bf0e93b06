"""Settings of drawing, of a diffusion checkpoint, and of a generated training set. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass

from flip.errors import ConfigError
from flip.names import PROMPTS, SAMPLE, SAMPLERS
from flip.settings import at_least, option, parse_count

#: Without ``--strength``, a study begins from photos with this share of noise.
DEFAULT_STRENGTH = 0.7

#: What a U-Net can be trained to predict: the noise, or the velocity (Salimans and Ho, ICLR 2022).
PREDICTIONS = ("epsilon", "v_prediction")

#: ``--prompts``: captions where there are any, and captions alone.
AUTO, CAPTIONS = "auto", "captions"


@dataclass(frozen=True, kw_only=True)
class CheckpointSettings:
    """The diffusion model and the reading of its file."""

    ckpt: str | None = option(
        None,
        "A .ckpt or .safetensors file, a diffusers folder, a LoRA file with --base, ORG/NAME, or sample.",
        completes=(SAMPLE,),
    )
    base: str | None = option(
        None, "The model a LoRA file changes; for a .ckpt the diffusers folder with what it lacks."
    )
    no_ema: bool = option(False, "Take the plain weights of a .ckpt that also has averaged ones.")
    prediction: str | None = option(
        None,
        "epsilon or v_prediction: what the U-Net predicts. [default: as the model's .yaml or folder says]",
        choices=PREDICTIONS,
    )

    def __post_init__(self) -> None:
        require_prediction(self.prediction)


@dataclass(frozen=True, kw_only=True)
class SamplerSettings:
    """Settings of drawing an image from a prompt."""

    sampler: str = option("dpm++", "How noise is turned into an image.", choices=SAMPLERS)
    steps: int = option(25, "Denoising steps of each image.")
    guidance: float = option(7.5, "How strongly an image follows its prompt; 1 and below switches guidance off.")
    size: str | None = option(None, "Pixels a side, or WIDTHxHEIGHT. [default: the model's own]")
    negative: str = option("", "What the images should not show.")

    def __post_init__(self) -> None:
        if self.sampler not in SAMPLERS:
            raise ConfigError(f"--sampler {self.sampler!r} is unknown; pass one of {', '.join(SAMPLERS)}")
        at_least("--steps", self.steps, 1)
        parse_size(self.size)

    @property
    def width(self) -> int | None:
        """Pixels, or None for the model's own."""
        size = parse_size(self.size)
        return size[0] if size else None

    @property
    def height(self) -> int | None:
        """Pixels, or None for the model's own."""
        size = parse_size(self.size)
        return size[1] if size else None

    def to_dict(self) -> dict[str, str | int | float | None]:
        """Return all that decides an image beside model, prompt and seed, under the keys that files have."""
        return {
            "sampler": self.sampler,
            "steps": self.steps,
            "guidance": self.guidance,
            "width": self.width,
            "height": self.height,
            "negative": self.negative,
            "strength": getattr(self, "strength", None),
        }


@dataclass(frozen=True, kw_only=True)
class DrawSettings(SamplerSettings):
    """Settings of drawing, from noise alone or from a photo under noise (SDEdit: Meng et al., ICLR 2022)."""

    strength: float | None = option(
        None,
        "Begin each image from a training photo of its class with this share of noise, 0 to 1. [default: from noise]",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require_strength(self.strength, self.steps)


@dataclass(frozen=True, kw_only=True)
class AugmentSettings(DrawSettings):
    """Settings of a generated training set."""

    per_class: int = option(20, "Images per class.")
    prompts: str = option(
        AUTO,
        "auto (class name and caption where there are captions), captions, or class prompts as in flip zeroshot.",
        completes=(AUTO, "captions", *PROMPTS),
    )
    filter: str = option(
        "auto",
        "clip:Q keeps an image whose CLIP label is its class and whose similarity reaches the quantile Q of real "
        "photos; none keeps all; auto is clip:0.1 where the CLIP model is at hand.",
    )
    guidance: float = option(5.0, "How strongly an image follows its prompt; 1 and below switches guidance off.")
    draws: int = option(5, "Most attempts for each image wanted.")

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("--per-class", self.per_class, 1)
        at_least("--draws", self.draws, 1)
        parse_filter(self.filter)


def parse_size(text: str | None) -> tuple[int, int] | None:
    """Return (width, height) in pixels, or None for the model's own.

    Raises
    ------
    ConfigError
        If the text is neither ``512`` nor ``512x768``, or a side is no positive multiple of 8.
    """
    if text is None:
        return None
    width, x, height = text.lower().partition("x")
    sides = [parse_count(side) for side in (width, height if x else width)]
    if not all(side and side % 8 == 0 for side in sides):
        raise ConfigError(f"--size {text!r} is no size; pass 512 or 512x768, in multiples of 8")
    return sides[0] or 0, sides[1] or 0


def parse_filter(text: str) -> float | None:
    """Return the quantile of ``clip:Q``, that of ``auto``, or None for ``none``.

    Raises
    ------
    ConfigError
        If the text is none of these.
    """
    if text == "none":
        return None
    kind, _, number = ("clip:0.1" if text == "auto" else text).partition(":")
    try:
        quantile = float(number)
    except ValueError:
        quantile = -1.0
    if kind != "clip" or not 0 <= quantile < 1:
        raise ConfigError(
            f"--filter {text!r} is unknown; pass clip:Q with Q from 0 to 1, such as clip:0.1, auto, or none"
        )
    return quantile


def require_prediction(prediction: str | None) -> None:
    """Raise a ConfigError if ``--prediction`` is unknown."""
    if prediction is not None and prediction not in PREDICTIONS:
        raise ConfigError(f"--prediction {prediction!r} is unknown; pass {' or '.join(PREDICTIONS)}")


def require_strength(strength: float | None, steps: int) -> None:
    """Raise a ConfigError if a strength is no share of noise, or leaves none of the steps."""
    if strength is not None and not 0 < strength <= 1:
        raise ConfigError(f"--strength {strength:g} is outside (0, 1]; pass for example {DEFAULT_STRENGTH}")
    if strength is not None and int(steps * strength) < 1:
        raise ConfigError(f"--strength {strength:g} takes that share of --steps {steps}, and leaves none; raise either")
