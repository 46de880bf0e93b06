"""Fine-tune a diffusion model on a dataset's captions: U-Net in full or LoRA, resumable, with samples on the way."""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from flip.data.dataset import Dataset
from flip.device import agree, keep_freed_memory, resolve_device, resolve_precision, training_accelerator
from flip.diffusion.checkpoint import INDEX_FILE, Loaded
from flip.files import JsonObject, plain, write_json, write_text
from flip.reading import parse_json, read_bytes
from flip.results import FORMAT
from flip.training.diffusion.examples import read_examples
from flip.training.diffusion.output import LORA_FILE, draw_samples, write_model
from flip.training.diffusion.prepare import (
    START,
    Start,
    make_trainer,
    start_fingerprint,
    starting_point,
)
from flip.training.diffusion.trainer import DiffusionTrainer
from flip.training.listener import Listener, StepReport, interrupts
from flip.training.resume import begin_run, finished_result, may_resume
from flip.training.settings import DEFAULT_HARDWARE, DiffusionSettings, Hardware

if TYPE_CHECKING:
    from accelerate import Accelerator

log = logging.getLogger(__name__)

RESULT_FILE = "finetune.json"
LOG_FILE = "log.jsonl"

#: Work of an unfinished run beside its checkpoints.
WORK = (START, INDEX_FILE, LORA_FILE)

#: Settings that may differ when a run is resumed. What a ``--from-scratch`` file holds is in the model's fingerprint.
FREE_SETTINGS = frozenset(["save_every", "sample_every", "from_scratch"])


def finetune(
    dataset: Dataset,
    model: Loaded | None,
    folder: str | Path,
    settings: DiffusionSettings | None = None,
    *,
    hardware: Hardware = DEFAULT_HARDWARE,
    resume: bool = False,
    overwrite: bool = False,
    listener: Listener | None = None,
) -> JsonObject:
    """Train a diffusion model on the training split and write it into a folder.

    An unfinished run with the same settings, data and model is resumed in its folder.

    Parameters
    ----------
    dataset : Dataset
    model : Loaded or None
        A model of the shape of Stable Diffusion, trained in place; None with ``settings.from_scratch``.
    folder : str or Path
        Gets a diffusers folder, or the LoRA file; ``log.jsonl``, ``finetune.json``, ``samples/``; while it is trained
        also ``checkpoints/``.
    settings : DiffusionSettings, optional
    hardware : Hardware
        Device, precision (bf16 is autocast over float32 weights), and threads that decode photos.
    resume, overwrite : bool
        Refuse a folder without a run, and of a finished run return the result; begin again where one is.
    listener : Listener, optional

    Returns
    -------
    dict
        What ``finetune.json`` holds.

    Raises
    ------
    ConfigError, CheckpointError, DataError
    Interrupted
        On SIGINT or SIGTERM, after the step in progress; a checkpoint is written.
    """
    began = time.perf_counter()
    folder, settings, listener = Path(folder).expanduser(), settings or DiffusionSettings(), listener or Listener()
    if finished := finished_result(folder / RESULT_FILE, resume=resume):
        return finished
    dataset.require_photos()
    start = starting_point(model, settings)
    precision = resolve_precision(hardware.precision, resolve_device(hardware.device), "train-diffusion")
    hardware = replace(hardware, precision=precision)
    accelerator = training_accelerator(hardware.device, hardware.precision)
    if accelerator.device.type == "cpu":
        keep_freed_memory()
    key = resume_key(settings, dataset, hardware, start_fingerprint(start))
    resumes = _open_folder(folder, key, accelerator, resume=resume, overwrite=overwrite)
    examples = read_examples(dataset, settings.prompts)
    trainer = make_trainer(start, folder, settings, examples, hardware, accelerator, listener)
    if resumes and trainer.resume():
        log.info(f"resuming after step {trainer.step} of {trainer.steps}")
    _train(trainer, folder, listener)
    summary = _summary(start, trainer, dataset, began)
    _write(trainer, folder, summary)
    return summary


def _open_folder(
    folder: Path, key: Mapping[str, object], accelerator: Accelerator, *, resume: bool, overwrite: bool
) -> bool:
    """Begin a run in the folder, or return True where one is to be resumed."""
    resumes = may_resume(folder, key, result=RESULT_FILE, work=WORK, resume=resume, overwrite=overwrite)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process and not resumes:
        begin_run(folder, key, (LOG_FILE, RESULT_FILE, START))
    return resumes


def _write(trainer: DiffusionTrainer, folder: Path, summary: Mapping[str, object]) -> None:
    """Write the model and the summary, and remove what an unfinished run needs."""
    if trainer.accelerator.is_main_process:
        write_model(trainer, folder)
        write_json(folder / RESULT_FILE, summary)
        trainer.finish()
        shutil.rmtree(folder / START, ignore_errors=True)
    trainer.accelerator.wait_for_everyone()


def resume_key(settings: DiffusionSettings, dataset: Dataset, hardware: Hardware, fingerprint: str) -> JsonObject:
    """Return what must be the same for a run to be resumed."""
    return {
        **{name: value for name, value in asdict(settings).items() if name not in FREE_SETTINGS},
        "device": hardware.device,
        "precision": hardware.precision,
        "data_fingerprint": dataset.fingerprint(),
        "model_fingerprint": fingerprint,
    }


def _summary(start: Start, trainer: DiffusionTrainer, dataset: Dataset, began: float) -> JsonObject:
    """Return what ``finetune.json`` holds."""
    accelerator, settings = trainer.accelerator, trainer.settings
    summary: JsonObject = plain(
        {
            "command": "finetune",
            "format": FORMAT,
            "ckpt": start.name if isinstance(start, Loaded) else "from scratch",
            "photos": len(trainer.examples),
            "steps": trainer.steps,
            "photos_a_step": trainer.batches.photos_per_step,
            "loss": trainer.loss,
            "trained": "lora" if settings.lora else "unet",
            "size": trainer.size,
            "precision": str(accelerator.mixed_precision).replace("no", "fp32"),
            "device": accelerator.device.type,
            "seconds": round(time.perf_counter() - began, 1),
            "settings": asdict(settings),
            "data": dataset.fingerprint(),
        }
    )
    return summary


def _train(trainer: DiffusionTrainer, folder: Path, listener: Listener) -> None:
    settings, accelerator = trainer.settings, trainer.accelerator
    file = folder / LOG_FILE
    if accelerator.is_main_process:
        _keep_log_until(file, trainer.step)
    with interrupts() as request:
        while trainer.step < trainer.steps:
            loss = trainer.train_step()
            log.debug(f"step {trainer.step} of {trainer.steps}, loss {loss:.4f}")
            listener.on_step(StepReport(trainer.step, trainer.steps, loss, trainer.batches.photos_per_step))
            finished, stop = trainer.step == trainer.steps, agree(accelerator, bool(request))
            if accelerator.is_main_process:
                row = {"step": trainer.step, "loss": round(loss, 6), "lr": trainer.learning_rate(trainer.step - 1)}
                with file.open("a", encoding="utf-8") as stream:
                    stream.write(json.dumps(row) + "\n")
            if finished or stop or trainer.step % settings.save_every == 0:
                trainer.save()
            if stop:
                raise request.interruption()
            turn = settings.sample_every and trainer.step % settings.sample_every == 0
            if accelerator.is_main_process and settings.sample_every and (turn or finished):
                draw_samples(trainer, folder / "samples" / f"step-{trainer.step:06d}.png")


def _keep_log_until(file: Path, step: int) -> None:
    """Drop the rows of steps that are taken again."""
    if file.is_file():
        kept = [line for line in read_bytes(file).decode("utf-8", "replace").split("\n") if _is_until(line, step)]
        write_text(file, "".join(line + "\n" for line in kept))


def _is_until(line: str, step: int) -> bool:
    """Return whether a line is a row of a step up to this one; a killed run may have left half a line."""
    try:
        return bool(parse_json(line)["step"] <= step)
    except (ValueError, TypeError, KeyError):
        return False
