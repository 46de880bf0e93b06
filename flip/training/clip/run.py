"""One CLIP fine-tuning: train on photos, average the weights, write the model into a folder."""

from __future__ import annotations

import logging
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from flip.clip.encoder import OpenClipEncoder
from flip.clip.folder import WEIGHTS_FILE
from flip.data.dataset import Dataset
from flip.device import resolve_device
from flip.errors import ConfigError, ModelError
from flip.files import write_json
from flip.results import FORMAT
from flip.settings import parse_shots
from flip.training.clip.averaging import Scorer, average, state_of
from flip.training.clip.examples import Examples
from flip.training.clip.gentle import settled
from flip.training.clip.lora import merge_lora
from flip.training.clip.output import CONFIG, OWN_FILES, RESULT, save_learned, save_model, write_metrics
from flip.training.clip.prepare import (
    choose_trained,
    make_validation,
    prepare_examples,
    require_two_classes,
    training_precision,
)
from flip.training.clip.projection import find_projection
from flip.training.clip.projection_trainer import ProjectionTrainer
from flip.training.clip.trainable import LearningRates, learning_rates, trained
from flip.training.clip.trainer import ClipTrainer
from flip.training.clip.validation import Split
from flip.training.clip.wise import WisePoint
from flip.training.listener import Listener
from flip.training.resume import CHECKPOINTS, begin_run, may_resume
from flip.training.settings import DEFAULT_HARDWARE, ClipSettings, Hardware

if TYPE_CHECKING:
    import torch
    from peft.tuners.lora import LoraModel

log = logging.getLogger(__name__)

#: Either runs one training, and holds what is known of it.
Trainer = ClipTrainer | ProjectionTrainer

#: Settings that may differ when a run is resumed: they change no weight of the training itself.
FREE_SETTINGS = frozenset(["save_every", "wise", "retain", "no_scores"])


@dataclass(frozen=True)
class ClipRun:
    """A finished training.

    Attributes
    ----------
    folder : Path
        Where the model is.
    trainer : ClipTrainer or ProjectionTrainer
        Its ``finish`` removes the checkpoints.
    precision : {"fp32", "bf16"}
    parameters : int
        Number of trained parameters.
    photos, validation_photos : int
        Real photos only.
    cut : int
        Texts that are longer than the model's context.
    wise : float
        Weight of the fine-tuned model in what was saved; 1 without averaging.
    wise_points : tuple of WisePoint
        Of a sweep.
    """

    folder: Path
    trainer: Trainer
    precision: str
    parameters: int
    photos: int
    validation_photos: int
    cut: int
    wise: float
    wise_points: tuple[WisePoint, ...]


def train_clip(
    model: OpenClipEncoder,
    split: Split,
    folder: Path,
    settings: ClipSettings,
    hardware: Hardware = DEFAULT_HARDWARE,
    *,
    crop: str = "none",
    held_out: Dataset | None = None,
    augmented: Dataset | None = None,
    resume: bool = False,
    overwrite: bool = False,
    listener: Listener | None = None,
) -> ClipRun:
    """Train a dual encoder on labelled photos and write it into a folder that ``--model`` takes.

    No photo of a test split is passed, so none can be learned from or chosen by.

    Parameters
    ----------
    model, folder, settings, hardware, crop, resume, overwrite, listener
        As for :func:`flip.training.clip.finetune.finetune`, which raises the same errors.
    split : Split
        Photos to learn from, and photos that choose the epoch (perhaps none).
    held_out, augmented : Dataset, optional
        Photos of classes that are not trained on, none of a test split, which choose the weight of ``--wise sweep``;
        generated images of the classes that are.
    """
    require_two_classes(split.training)
    key = resume_key(model, split, settings, hardware, crop, augmented)
    about = {"data": str(split.training.root), "layout": split.training.layout, "crop": crop, **asdict(settings)}
    about |= asdict(hardware)
    resumes = _open_folder(folder, model, key, about, hardware, resume=resume, overwrite=overwrite)
    if resolve_device(hardware.device).is_main:
        chosen_by = [held_out] if held_out is not None and settings.wise == "sweep" else []
        save_learned(model, [*split, *chosen_by], folder)
    settings = settled(model, split.training, settings, hardware, crop=crop == "boxes")
    ready = _prepare(model, split, folder, settings, hardware, crop, augmented, listener)
    trainer = ready.trainer
    run = _describe(folder, trainer, ready.precision, ready.examples)
    if resumes and trainer.resume():
        log.info(f"resuming after step {trainer.state.step} of {trainer.steps}")
    _train(model, ready.tuner, trainer, folder)
    points, weight = average(ready.scorer, ready.before, trainer.validation.examples, held_out)
    _write(model, trainer, folder)
    return replace(run, wise=weight, wise_points=tuple(points))


class _Prepared(NamedTuple):
    """A trainer with what it was made of, and the weights from before training, for averaging."""

    trainer: Trainer
    examples: Examples
    scorer: Scorer
    precision: str
    before: dict[str, torch.Tensor]
    tuner: LoraModel | None


def _prepare(
    model: OpenClipEncoder,
    split: Split,
    folder: Path,
    settings: ClipSettings,
    hardware: Hardware,
    crop: str,
    augmented: Dataset | None,
    listener: Listener | None,
) -> _Prepared:
    precision = training_precision(hardware, model)
    examples, scorer = prepare_examples(model, split.training, settings, hardware, crop, augmented)
    before = state_of(model) if settings.wise else {}
    validation = make_validation(scorer, split.validation)
    if settings.few_shot_projection:
        find_projection(model.network.visual, model.name).train_alone(model.network)
        (shots,) = parse_shots(settings.shots)
        fit = ProjectionTrainer(scorer, examples, validation, shots)
        return _Prepared(fit, examples, scorer, "fp32", before, None)
    tuner = choose_trained(model, settings)
    trainer = ClipTrainer(
        model,
        examples,
        validation,
        _rates(model, settings),
        settings,
        folder / CHECKPOINTS,
        replace(hardware, precision=precision),
        listener,
    )
    return _Prepared(trainer, examples, scorer, precision, before, tuner)


def _rates(model: OpenClipEncoder, settings: ClipSettings) -> LearningRates:
    return learning_rates(
        model.network,
        settings.lr,
        lora=settings.rank is not None,
        scratch=settings.from_scratch is not None,
        few_shot=settings.shots is not None,
    )


def resume_key(
    model: OpenClipEncoder,
    split: Split,
    settings: ClipSettings,
    hardware: Hardware,
    crop: str,
    augmented: Dataset | None,
) -> dict[str, object]:
    """Return what must be the same for a run to be resumed."""
    data = [part.fingerprint() for part in (*split, augmented) if part is not None]
    return {
        **{name: value for name, value in asdict(settings).items() if name not in FREE_SETTINGS},
        "device": hardware.device,
        "precision": hardware.precision,
        "crop": crop,
        "data_fingerprint": "-".join(data),
        "model_fingerprint": model.fingerprint,
    }


def _open_folder(
    folder: Path,
    model: OpenClipEncoder,
    key: dict[str, object],
    about: dict[str, object],
    hardware: Hardware,
    *,
    resume: bool,
    overwrite: bool,
) -> bool:
    """Begin a run in the folder, or return True where one is to be resumed."""
    if os.path.realpath(model.name.removeprefix("local-dir:")) == os.path.realpath(folder):
        raise ConfigError(f"-o {folder} is the folder of --model itself; pass another folder")
    resumes = may_resume(folder, key, result=RESULT, work=(WEIGHTS_FILE,), resume=resume, overwrite=overwrite)
    placement = resolve_device(hardware.device)
    placement.wait_for_everyone()
    if placement.is_main and not resumes:
        begin_run(folder, key, OWN_FILES)
        write_json(folder / CONFIG, {"command": "finetune", "format": FORMAT, "model": model.name, **about})
    return resumes


def _describe(folder: Path, trainer: Trainer, precision: str, examples: Examples) -> ClipRun:
    """Log how the run is trained, and return its description before averaging."""
    parameters = sum(p.numel() for _, p in trained(trainer.model.network))
    generated = f" and {int(examples.generated.sum())} generated" if examples.generated.any() else ""
    log.info(f"{examples.real}{generated} photos, {trainer.how()}; {parameters:,} parameters in {precision}")
    if examples.cut:
        log.info(f"{examples.cut} texts are longer than the model's {examples.tokens.shape[1]} tokens and are cut")
    photos, validation_photos = examples.real, len(trainer.validation)
    return ClipRun(folder, trainer, precision, parameters, photos, validation_photos, examples.cut, 1.0, ())


def _train(model: OpenClipEncoder, tuner: LoraModel | None, trainer: Trainer, folder: Path) -> None:
    """Train and merge low-rank additions; when the loss diverges, write the last good epoch first."""
    try:
        trainer.train()
    except ModelError:
        if trainer.take_best():
            if tuner is not None:
                merge_lora(tuner)
            _write(model, trainer, folder)
        raise
    if tuner is not None:
        merge_lora(tuner)


def _write(model: OpenClipEncoder, trainer: Trainer, folder: Path) -> None:
    if trainer.is_main:
        write_metrics(folder, trainer.state.history)
        save_model(model, state_of(model), folder)
    trainer.wait_for_everyone()
