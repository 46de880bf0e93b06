"""Fine-tune CLIP on a dataset's training photos, and score the test photos before and after."""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path

from flip.clip.encoder import OpenClipEncoder
from flip.clip.learned import require_unlearned_by_model
from flip.clip.model import load_model
from flip.data.dataset import Dataset, rows_of_sources
from flip.data.open import open_dataset
from flip.data.same_photos import warn_of_copies
from flip.device import resolve_device
from flip.files import JsonObject, plain, write_json
from flip.results import FORMAT
from flip.settings import parse_shots
from flip.training.clip.output import RESULT
from flip.training.clip.run import ClipRun, train_clip
from flip.training.clip.scores import ClassSplit, Score, score_models, split_classes, starting_model
from flip.training.clip.validation import Split, split_few_shot, split_validation
from flip.training.listener import Listener
from flip.training.resume import finished_result
from flip.training.settings import DEFAULT_HARDWARE, ClipSettings, Hardware

log = logging.getLogger(__name__)


def finetune(
    dataset: Dataset,
    model: OpenClipEncoder | str | None,
    folder: str | Path,
    settings: ClipSettings | None = None,
    *,
    hardware: Hardware = DEFAULT_HARDWARE,
    crop: str = "none",
    cache: Path | None = None,
    arch: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    listener: Listener | None = None,
) -> JsonObject:
    """Fine-tune CLIP on the training photos, with their captions or class prompts, and write it into a folder.

    Test photos are scored only when it is done, by the model before and after (``settings.no_scores`` leaves that
    out). An unfinished run with the same settings, data and model is resumed in its folder.

    Parameters
    ----------
    dataset : Dataset
    model : OpenClipEncoder or str
        A loaded model is trained in place; None with ``settings.from_scratch``.
    folder : str or Path
        Becomes a model folder that :func:`flip.clip.model.load_model` takes.
    settings : ClipSettings, optional
    hardware : Hardware
        Device, precision, and threads that decode photos.
    crop : {"none", "boxes"}
        boxes: cut each photo to its bounding box.
    cache : Path, optional
        Cache folder of embeddings; the platform's when absent.
    arch : str, optional
        Architecture of ``model`` where that names a bare weights file.
    resume, overwrite : bool
        Refuse a folder without a run, and of a finished run return the result; begin again where one is.
    listener : Listener, optional

    Returns
    -------
    dict
        What ``result.json`` holds.

    Raises
    ------
    ConfigError, DataError, ModelError, CheckpointError
    Interrupted
        On SIGINT or SIGTERM, after the step in progress; a checkpoint is written.
    """
    folder, settings = Path(folder).expanduser(), settings or ClipSettings()
    if finished := finished_result(folder / RESULT, resume=resume):
        return finished
    dataset.require_photos()
    classes = split_classes(dataset, settings.holdout_classes)
    split = _split(classes.trained, settings)
    name = model.name if isinstance(model, OpenClipEncoder) else model
    if name is not None and "test" in dataset.splits and not settings.no_scores:
        require_unlearned_by_model(name, dataset, "test")
    if not settings.no_scores:
        warn_of_copies(dataset)
    run = train_clip(
        model if isinstance(model, OpenClipEncoder) else starting_model(model, settings, cache, arch),
        split,
        folder,
        settings,
        hardware,
        crop=crop,
        held_out=classes.held_out_choosing(),
        augmented=open_augmented(settings.augmented, split.validation),
        resume=resume,
        overwrite=overwrite,
        listener=listener,
    )
    return _finish(run, name, classes, settings, hardware, crop, cache, arch)


def _split(dataset: Dataset, settings: ClipSettings) -> Split:
    """Return the photos to learn from and those that choose the epoch, and log how many there are."""
    if settings.shots is not None:
        (shots,) = parse_shots(settings.shots)
        split = split_few_shot(dataset, shots, settings.seed)
        log.info(f"{len(split.training)} photos train, {settings.shots} of each class; none chooses the epoch")
        return split
    split = split_validation(dataset, settings.val_fraction, settings.seed)
    log.info(f"{len(split.training)} photos train, {len(split.validation)} of the training split choose the epoch")
    return split


def _finish(
    run: ClipRun,
    name: str | None,
    classes: ClassSplit,
    settings: ClipSettings,
    hardware: Hardware,
    crop: str,
    cache: Path | None,
    arch: str | None,
) -> JsonObject:
    """Score the model before and after, and write the result of a run."""
    _warn(run)
    scores: list[Score] = []
    if not settings.no_scores:
        models = starting_model(name, settings, cache, arch), load_model(str(run.folder), cache=cache)
        scores = score_models(models, classes, settings, hardware, crop=crop, cache=cache)
    summary: JsonObject = plain(_summary(name, settings, run, scores))
    if resolve_device(hardware.device).is_main:
        write_json(run.folder / RESULT, summary)
        run.trainer.finish()
    return summary


def open_augmented(folder: Path | None, validation: Dataset) -> Dataset | None:
    """Open generated images, without those that were made from a validation photo.

    Where the folder has splits of its own, only its training split is taken.
    """
    if folder is None:
        return None
    dataset = open_dataset(folder)
    dataset = dataset.select("train") if "train" in dataset.splits else dataset
    made_from = rows_of_sources([r.source for r in dataset.records], [r.path for r in validation.records])
    kept = [i for i, row in enumerate(made_from) if row is None]
    if len(kept) < len(dataset):
        left_out = len(dataset) - len(kept)
        log.info(f"left out {left_out} of {len(dataset)} generated images: made from validation photos")
    return dataset.take(kept) if kept else None


def _warn(run: ClipRun) -> None:
    """Log what a user should know before trusting the result."""
    unreadable, state = run.trainer.unreadable, run.trainer.state
    if unreadable:
        first = next(iter(unreadable.values()))
        log.warning(f"{len(unreadable)} training photos cannot be read and were passed over, the first: {first}")
    start = state.start_top1
    after = state.best["val_top1"] if state.history else None
    if after is not None and start is not None and after < start:
        log.warning(
            f"validation zero-shot was {start:.1f} % before and is {after:.1f} % after: either "
            "the model knew these photos already, or training made it worse; see the test photos, or pass a lower --lr"
        )


def _summary(model: str | None, settings: ClipSettings, run: ClipRun, scores: list[Score]) -> JsonObject:
    """Return what ``result.json`` holds."""
    state, rates = run.trainer.state, run.trainer.rates
    return {
        "command": "finetune",
        "format": FORMAT,
        "output": str(run.folder),
        "model": str(settings.from_scratch or model),
        "photos": run.photos,
        "validation_photos": run.validation_photos,
        "train": settings.part if settings.rank is None else f"{settings.part}, low-rank {settings.rank}",
        "shots": settings.shots,
        "parameters": run.parameters,
        "lr_image": rates.image if rates else None,
        "lr_text": rates.text if rates else None,
        "precision": run.precision,
        "batch": run.trainer.batch,
        "epochs": len(state.history),
        "best_epoch": state.best_epoch,
        "val_loss": state.best["val_loss"],
        "val_top1_before": state.start_top1,
        "val_top1": state.best["val_top1"],
        "wise": run.wise,
        "wise_sweep": [asdict(point) for point in run.wise_points],
        "scores": [asdict(score) for score in scores],
        "texts_cut": run.cut,
        "unreadable": len(run.trainer.unreadable),
        "seconds": state.seconds,
    }
