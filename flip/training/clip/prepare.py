"""What a CLIP fine-tuning begins with: precision, examples, trained parameters and validation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flip.clip.encoder import OpenClipEncoder
from flip.clip.prompts import data_prompts
from flip.data.dataset import Dataset
from flip.device import resolve_device, resolve_precision
from flip.errors import ConfigError, DataError
from flip.training.clip.averaging import Scorer
from flip.training.clip.examples import Examples, make_examples
from flip.training.clip.lora import add_lora
from flip.training.clip.trainable import choose_parameters, is_convolutional
from flip.training.clip.validation import Validation
from flip.training.settings import ClipSettings, Hardware

if TYPE_CHECKING:
    from peft.tuners.lora import LoraModel


def training_precision(hardware: Hardware, model: OpenClipEncoder) -> str:
    """Return "bf16" (autocast over fp32 weights) or "fp32".

    ``auto`` is bf16 where the hardware has it, except for a convolutional tower on a CPU: one without depthwise
    kernels for bf16 is slower than in fp32. It times nothing, so that a resumed run takes what it took before.

    Raises
    ------
    ConfigError
        For fp16, whose gradients under- and overflow.
    """
    convolutional = is_convolutional(model.network.visual)
    return resolve_precision(
        hardware.precision, resolve_device(hardware.device), "train-clip", convolutional=convolutional
    )


def require_two_classes(dataset: Dataset) -> None:
    """Raise a DataError unless the photos are of two classes or more."""
    classes = len(set(dataset.labels.tolist()))
    if classes < 2:
        raise DataError(
            f"{dataset.root} has training photos of {classes} classes; contrastive training compares two or more"
        )


def prepare_examples(
    model: OpenClipEncoder,
    photos: Dataset,
    settings: ClipSettings,
    hardware: Hardware,
    crop: str,
    augmented: Dataset | None,
) -> tuple[Examples, Scorer]:
    """Return the training examples, and a scorer of the weights by zero-shot."""
    prompts = data_prompts(settings.prompts, photos)
    boxes = crop == "boxes"
    examples = make_examples(photos, prompts, model.tokenize, crop=boxes, augmented=augmented)
    return examples, Scorer(model, prompts, resolve_device(hardware.device), settings, boxes, hardware.workers)


def make_validation(scorer: Scorer, photos: Dataset) -> Validation:
    """Return the validation on these photos."""
    settings = scorer.settings
    return Validation(
        scorer.model,
        scorer.examples(photos, scorer.prompts),
        scorer.prompts,
        scorer.placement,
        seed=settings.seed,
        caption_share=settings.caption_share,
        batch_size=settings.batch_size,
        workers=scorer.workers,
    )


def choose_trained(model: OpenClipEncoder, settings: ClipSettings) -> LoraModel | None:
    """Let the trained parameters require gradients; returns peft's model where there are low-rank additions."""
    if settings.from_scratch is not None and (settings.part != "full" or settings.lora or settings.wise):
        raise ConfigError("--from-scratch trains all of random weights; leave out --train, --lora and --wise")
    choose_parameters(model.network, settings.part)
    if settings.grad_checkpointing:
        model.network.set_grad_checkpointing(True)
    return add_lora(model.network, settings.rank, settings.part, settings.seed) if settings.rank else None
