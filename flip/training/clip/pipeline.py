"""From a model and photos to a fine-tuned model in a folder: train, average, save."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flip.clip.model import ClipModel
from flip.clip.prompts import class_prompts
from flip.config import FinetuneConfig, worker_count
from flip.data.dataset import Dataset
from flip.device import Placement, bf16_in_hardware, place
from flip.errors import ConfigError, DataError, ModelError
from flip.training.clip.averaging import Judge, average, state_of
from flip.training.clip.examples import Examples, make_examples
from flip.training.clip.loop import Training
from flip.training.clip.lora import add_lora, merge_lora
from flip.training.clip.output import CHECKPOINTS, begin_folder, check_folder, save_model, write_metrics
from flip.training.clip.state import Listener
from flip.training.clip.trainable import LearningRates, choose_parameters, is_convolutional, learning_rates, trained
from flip.training.clip.validation import Split, Validation
from flip.training.clip.wise import WisePoint


@dataclass(frozen=True)
class FinetuneResult:
    """What a run did.

    Attributes
    ----------
    folder : Path
        Where the model is.
    training : Training
        Its ``finish`` removes the checkpoints.
    rates : LearningRates
    precision : {"fp32", "bf16"}
    parameters : int
        Number of trained parameters.
    photos, validation_photos : int
    start_top1 : float or None
        Zero-shot of the validation photos before training, in percent.
    cut : int
        Texts that are longer than the model's context.
    wise : float
        Weight of the fine-tuned model in what was saved; 1 without averaging.
    wise_points : tuple of WisePoint
        Of a sweep.
    """

    folder: Path
    training: Training
    rates: LearningRates
    precision: str
    parameters: int
    photos: int
    validation_photos: int
    start_top1: float | None
    cut: int
    wise: float
    wise_points: tuple[WisePoint, ...]


def finetune(
    model: ClipModel,
    split: Split,
    config: FinetuneConfig,
    folder: Path,
    *,
    held_out: Dataset | None = None,
    augmented: Dataset | None = None,
    listener: Listener | None = None,
) -> FinetuneResult:
    """Train a dual encoder on labelled photos and write it into a folder that ``--model`` takes.

    No photo of a test split is passed, so none can be learned from or chosen by.

    Parameters
    ----------
    model : ClipModel
        Trained in place.
    split : Split
        Photos to learn from, and photos that choose the epoch (perhaps none).
    config : FinetuneConfig
    folder : Path
    held_out : Dataset, optional
        Photos of classes that are not trained on, none of a test split, which choose the weight of ``--wise sweep``.
    augmented : Dataset, optional
        More photos of the same classes.
    listener : Listener, optional
        Called while it goes on.

    Raises
    ------
    ConfigError, DataError, ModelError, CheckpointError
        See the message; a checkpoint that was finished before is intact.
    """
    listener = listener or Listener()
    _require_two_classes(split.training)
    placement, precision = place(config.device), training_precision(config, model)
    fingerprints = {"data_fingerprint": _fingerprint(split, augmented), "model_fingerprint": model.fingerprint}
    check_folder(folder, config, fingerprints)
    placement.wait_for_everyone()
    if placement.is_main and not config.resume:
        begin_folder(folder, config, fingerprints)
    prompts = class_prompts(config.prompts, split.training.classnames, split.training.raw_names)
    crop = config.crop == "boxes"
    examples = make_examples(split.training, prompts, model.tokenize, crop=crop, augmented=augmented)
    judge = Judge(model, prompts, placement, config, held_out)
    before = state_of(model) if config.wise else {}
    tuner = _prepare(model, config)
    rates = learning_rates(
        model.network, config.lr, lora=config.lora is not None, scratch=config.from_scratch is not None
    )
    validation = _validation(judge, split.validation)
    training = Training(model, examples, validation, rates, config, folder / CHECKPOINTS, precision, listener)
    parameters = sum(p.numel() for _, p in trained(model.network))
    _announce(listener, examples, training, rates, precision, parameters)
    if config.resume and training.resume():
        listener.on_note(f"going on after step {training.state.step} of {training.steps}")
    try:
        training.train()
    except ModelError:
        if training.take_best():
            _write(model, tuner, training, folder, placement)
        raise
    if tuner is not None:
        merge_lora(tuner)
    points, weight = average(judge, config, before, validation.examples)
    _write(model, None, training, folder, placement)
    return FinetuneResult(
        folder,
        training,
        rates,
        precision,
        parameters,
        examples.own,
        len(validation),
        training.state.start_top1,
        examples.cut,
        weight,
        tuple(points),
    )


def _write(model: ClipModel, tuner: Any, training: Training, folder: Path, placement: Placement) -> None:
    if tuner is not None:
        merge_lora(tuner)
    if placement.is_main:
        write_metrics(folder, training.state.history)
        save_model(model, state_of(model), folder)
    placement.wait_for_everyone()


def training_precision(config: FinetuneConfig, model: ClipModel) -> str:
    """Return "bf16" (autocast over fp32 weights) or "fp32".

    ``auto`` is bf16 where the hardware has it, except for a convolutional tower on a processor: one without depthwise
    kernels for bf16 is slower than in fp32. It times nothing, so that a resumed run takes what it took before.

    Raises
    ------
    ConfigError
        For fp16, whose gradients under- and overflow.
    """
    if config.precision == "fp16":
        raise ConfigError("--precision fp16 loses gradients that are too small for it; pass bf16, fp32 or auto")
    if config.precision == "auto":
        device = place(config.device).device
        slower = device.type == "cpu" and is_convolutional(model.network.visual)  # type: ignore[arg-type]
        return "bf16" if bf16_in_hardware(device) and not slower else "fp32"
    return config.precision


def _validation(judge: Judge, photos: Dataset) -> Validation:
    config = judge.config
    return Validation(
        judge.model,
        judge.examples(photos, judge.prompts),
        judge.prompts,
        judge.placement,
        seed=config.seed,
        caption_share=config.caption_share,
        batch_size=config.batch_size,
        workers=worker_count(config.workers),
    )


def _prepare(model: ClipModel, config: FinetuneConfig) -> Any:
    """Choose what is trained; returns peft's model where there are low-rank additions."""
    if config.from_scratch is not None and (config.train != "full" or config.lora or config.wise):
        raise ConfigError("--from-scratch trains all of random weights; leave out --train, --lora and --wise")
    choose_parameters(model.network, config.train)
    if config.grad_checkpointing:
        model.network.set_grad_checkpointing(True)  # type: ignore[operator]
    return add_lora(model.network, config.lora, config.train, config.seed) if config.lora else None


def _announce(
    listener: Listener, examples: Examples, training: Training, rates: LearningRates, precision: str, parameters: int
) -> None:
    extra = f" and {int(examples.extra.sum())} more" if examples.extra.any() else ""
    lr = f"{rates.image:g}" if rates.image == rates.text else f"{rates.image:g} image, {rates.text:g} text"
    listener.on_note(
        f"{examples.own}{extra} photos, batches of {training.batch}, {training.steps_per_epoch} steps an epoch; "
        f"{parameters:,} parameters in {precision}; learning rate {lr} ({rates.reason})"
    )
    if examples.cut:
        listener.on_note(
            f"{examples.cut} texts are longer than the model's {examples.tokens.shape[1]} tokens and are cut"
        )


def _require_two_classes(dataset: Dataset) -> None:
    classes = len(set(dataset.labels.tolist()))
    if classes < 2:
        raise DataError(
            f"{dataset.root} has training photos of {classes} classes; contrastive training compares two or more"
        )


def _fingerprint(split: Split, augmented: Dataset | None) -> str:
    parts = [split.training.fingerprint(), split.validation.fingerprint()]
    return "-".join(parts + ([augmented.fingerprint()] if augmented is not None else []))
