"""Fine-tune a diffusion model on a dataset's captions: U-Net in full or LoRA, resumable, with samples on the way."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from flip.data.dataset import Dataset
from flip.device import Placement, agree, keep_freed_memory, resolve_device, resolve_precision, training_accelerator
from flip.diffusion.checkpoint import INDEX_FILE, Loaded, load_pipeline, save_pipeline
from flip.diffusion.diffusers_api import diffusers
from flip.diffusion.painter import Painter, Picture, picture_seed
from flip.diffusion.pictures import contact_sheet, save_sheet
from flip.diffusion.settings import DrawSettings
from flip.errors import ConfigError, DataError
from flip.files import plain, sync, write_json, write_text, written_aside
from flip.results import FORMAT
from flip.training.diffusion.autoencoder import train_autoencoder
from flip.training.diffusion.examples import Example, TextBank, Views, affordable_views, encode_views, read_examples
from flip.training.diffusion.scratch import build_pipeline, read_scratch_config
from flip.training.diffusion.trainer import DiffusionTrainer
from flip.training.diffusion.types import Pipeline
from flip.training.listener import Listener, StepReport, interrupts
from flip.training.resume import CHECKPOINTS, begin_run, finished_result, may_resume
from flip.training.settings import DEFAULT_HARDWARE, DiffusionSettings, Hardware

if TYPE_CHECKING:
    from accelerate import Accelerator

log = logging.getLogger(__name__)

RESULT_FILE = "finetune.json"
LOG_FILE = "log.jsonl"
LORA_FILE = "pytorch_lora_weights.safetensors"

#: Settings that may differ when a run is resumed. What a ``--from-scratch`` file holds is in the model's fingerprint.
FREE_SETTINGS = frozenset(["save_every", "sample_every", "from_scratch"])

_START = "start"
_ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
_SAMPLES, _SAMPLE_STEPS = 8, 20


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
) -> dict[str, Any]:
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
    resume : bool
        Refuse a folder without a run; of a finished run return the result.
    overwrite : bool
        Begin again in a folder that holds a run.
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
    if dataset.embeddings is not None:
        raise DataError(f"{dataset.root} is a table of embeddings, and training needs the photos; pass their folder")
    start = _starting_point(model, settings)
    hardware = replace(
        hardware, precision=resolve_precision(hardware.precision, resolve_device(hardware.device), "train-diffusion")
    )
    accelerator = training_accelerator(hardware.device, hardware.precision)
    if accelerator.device.type == "cpu":
        keep_freed_memory()
    key = resume_key(settings, dataset, hardware, _fingerprint(start))
    resumes = may_resume(folder, key, result=RESULT_FILE, resume=resume, overwrite=overwrite)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process and not resumes:
        begin_run(folder, key, (LOG_FILE, RESULT_FILE, _START))
    trainer = _make_trainer(
        start, folder, settings, read_examples(dataset, settings.prompts), hardware, accelerator, listener
    )
    if resumes and trainer.resume():
        log.info(f"resuming after step {trainer.step} of {trainer.steps}")
    _train(trainer, folder, listener)
    summary = _summary(start, trainer, dataset, began)
    if accelerator.is_main_process:
        _write(trainer, folder)
        write_json(folder / RESULT_FILE, summary)
        trainer.finish()
        shutil.rmtree(folder / _START, ignore_errors=True)
    accelerator.wait_for_everyone()
    return summary


def resume_key(settings: DiffusionSettings, dataset: Dataset, hardware: Hardware, fingerprint: str) -> dict[str, Any]:
    """Return what must be the same for a run to be resumed."""
    return {
        **{name: value for name, value in asdict(settings).items() if name not in FREE_SETTINGS},
        "device": hardware.device,
        "precision": hardware.precision,
        "data_fingerprint": dataset.fingerprint(),
        "model_fingerprint": fingerprint,
    }


def _starting_point(model: Loaded | None, settings: DiffusionSettings) -> Loaded | dict[str, Any]:
    """Return a loaded model, or the configuration of one to be built."""
    if settings.from_scratch is None:
        if model is None:
            raise ConfigError("no model given; pass one to fine-tune, or from_scratch with a configuration")
        return model
    if model is not None:
        raise ConfigError("--from-scratch begins with random weights; leave out --ckpt")
    return read_scratch_config(settings.from_scratch)


def _fingerprint(start: Loaded | dict[str, Any]) -> str:
    if isinstance(start, Loaded):
        return start.fingerprint
    return hashlib.sha256(json.dumps(start, sort_keys=True).encode()).hexdigest()[:16]


def _summary(
    start: Loaded | dict[str, Any], trainer: DiffusionTrainer, dataset: Dataset, began: float
) -> dict[str, Any]:
    """Return what ``finetune.json`` holds."""
    accelerator, settings = trainer.accelerator, trainer.settings
    summary: dict[str, Any] = plain(
        {
            "command": "finetune",
            "format": FORMAT,
            "ckpt": start.name if isinstance(start, Loaded) else "from scratch",
            "photos": len(trainer.examples),
            "steps": trainer.steps,
            "photos_a_step": trainer.photos_per_step,
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


def _pipeline(
    start: Loaded | dict[str, Any],
    folder: Path,
    settings: DiffusionSettings,
    examples: list[Example],
    workers: int | None,
    accelerator: Accelerator,
) -> Pipeline:
    """Return the pipeline to train; from scratch its autoencoder is trained first, and kept in the folder."""
    if isinstance(start, Loaded):
        _require_stable_diffusion(start.pipeline, start.name)
        return start.pipeline
    if accelerator.num_processes > 1:
        raise ConfigError("--from-scratch trains in one process; leave out accelerate launch")
    if not (folder / _START / INDEX_FILE).is_file():
        pipeline = build_pipeline(start, settings.seed)
        size = settings.size or pipeline.unet.config.sample_size * pipeline.vae_scale_factor
        views = Views(examples, size, settings.views, settings.seed, workers)
        autocast = accelerator.autocast
        train_autoencoder(pipeline.vae, views, start, accelerator.device, settings.seed, autocast=autocast)
        save_pipeline(pipeline.to("cpu"), folder / _START)
    return load_pipeline(folder / _START).pipeline


def _require_stable_diffusion(pipeline: Pipeline, name: str) -> None:
    parts = {"unet": "UNet2DConditionModel", "vae": "AutoencoderKL", "text_encoder": "CLIPTextModel"}
    for part, kind in parts.items():
        if type(getattr(pipeline, part, None)).__name__ != kind:
            raise ConfigError(
                f"{name} is a {type(pipeline).__name__}; only models of the shape of Stable Diffusion are trained"
            )


def _make_trainer(
    start: Loaded | dict[str, Any],
    folder: Path,
    settings: DiffusionSettings,
    examples: list[Example],
    hardware: Hardware,
    accelerator: Accelerator,
    listener: Listener,
) -> DiffusionTrainer:
    pipeline = _pipeline(start, folder, settings, examples, hardware.workers, accelerator)
    size = settings.size or pipeline.unet.config.sample_size * pipeline.vae_scale_factor
    if size % 8 or size % pipeline.vae_scale_factor:
        raise ConfigError(f"--size {size} is no multiple of {max(8, pipeline.vae_scale_factor)}; pass for example 512")
    pipeline.to(accelerator.device, torch.float32)
    side, scratch = size // pipeline.vae_scale_factor, not isinstance(start, Loaded)
    latent_bytes = pipeline.vae.config.latent_channels * side * side * 4
    count = affordable_views(settings.views, len(examples), latent_bytes)
    log.info(f"encoding {len(examples)} training photos")
    views = Views(examples, size, count, settings.seed, hardware.workers)
    latents = encode_views(pipeline.vae, views, accelerator.device, listener.progress)
    unread = len(examples) - len(latents.numbers)
    if unread:
        log.warning(f"{unread} of {len(examples)} training photos cannot be read and are left out")
    every = ["", *(text for example in examples for text in (*example.prompts, *example.captions))]
    texts = TextBank(pipeline.tokenizer, pipeline.text_encoder, every, frozen=not scratch)
    _choose_trained(pipeline, settings, scratch=scratch)
    return DiffusionTrainer(pipeline, accelerator, examples, latents, texts, settings, folder / CHECKPOINTS, size)


def _choose_trained(pipeline: Pipeline, settings: DiffusionSettings, *, scratch: bool) -> None:
    """Let the trained parameters require gradients: U-Net or LoRA, from scratch also the text encoder."""
    for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
        part.requires_grad_(False)
    if settings.lora:
        from peft import LoraConfig

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            # alpha = rank: the file then needs no scale of its own to be read.
            adapter = LoraConfig(
                r=settings.lora,
                lora_alpha=settings.lora,
                target_modules=_ATTENTION,
                init_lora_weights="gaussian",
            )
            pipeline.unet.add_adapter(adapter)
    else:
        pipeline.unet.requires_grad_(True)
    if scratch:
        pipeline.text_encoder.requires_grad_(True)
    if settings.grad_checkpointing:
        pipeline.unet.enable_gradient_checkpointing()
    pipeline.unet.train()


def _train(trainer: DiffusionTrainer, folder: Path, listener: Listener) -> None:
    settings, accelerator = trainer.settings, trainer.accelerator
    file = folder / LOG_FILE
    if accelerator.is_main_process:
        _keep_log_until(file, trainer.step)
    with interrupts() as request:
        while trainer.step < trainer.steps:
            loss = trainer.train_step()
            log.debug(f"step {trainer.step} of {trainer.steps}, loss {loss:.4f}")
            listener.on_step(StepReport(trainer.step, trainer.steps, loss, trainer.photos_per_step))
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
        lines = file.read_text(encoding="utf-8").splitlines()
        write_text(file, "".join(line + "\n" for line in lines if json.loads(line)["step"] <= step))


def draw_samples(trainer: DiffusionTrainer, file: Path) -> None:
    """Draw the same prompts from the same noise as last time with the averaged weights, on one sheet."""
    pipeline, accelerator = trainer.pipeline, trainer.accelerator
    prompts = list(dict.fromkeys((e.captions or e.prompts)[0] for e in trainer.examples))
    chosen = prompts[:: max(1, len(prompts) // _SAMPLES)][:_SAMPLES]
    pictures = [Picture(prompt, picture_seed(trainer.settings.seed, prompt, 0)) for prompt in chosen]
    unet = accelerator.unwrap_model(pipeline.unet)
    copy = diffusers.StableDiffusionPipeline(**pipeline.components, requires_safety_checker=False)
    placement = Placement(accelerator.device, accelerator.process_index, accelerator.num_processes, accelerator.state)
    was_training = unet.training
    unet.eval()
    with trainer.averaged_weights(), accelerator.autocast():
        settings = DrawSettings(sampler="ddim", steps=_SAMPLE_STEPS, guidance=5.0, size=str(trainer.size))
        images = [image for _, image in Painter(copy, placement, settings, batch_size=4).draw(pictures)]
    unet.train(was_training)
    save_sheet(contact_sheet([images[:4], images[4:]] if len(images) > 4 else [images]), file)


def _write(trainer: DiffusionTrainer, folder: Path) -> None:
    """Write the averaged weights: a diffusers folder, its index last, or the LoRA file."""
    with trainer.averaged_weights():
        if trainer.settings.lora:
            _write_lora(trainer.pipeline, folder / LORA_FILE)
            return
        aside = folder / ".model"
        shutil.rmtree(aside, ignore_errors=True)
        trainer.pipeline.unet.eval()
        save_pipeline(trainer.pipeline, aside)
    for entry in sorted(aside.iterdir(), key=lambda path: path.name == INDEX_FILE):
        if (folder / entry.name).is_dir():
            shutil.rmtree(folder / entry.name)
        entry.replace(folder / entry.name)
    aside.rmdir()
    sync(folder)


def _write_lora(pipeline: Pipeline, file: Path) -> None:
    from peft import get_peft_model_state_dict

    layers = {name: value.cpu() for name, value in get_peft_model_state_dict(pipeline.unet).items()}
    with written_aside(file, "pass -o with a folder that can hold it", durable=True) as aside:
        diffusers.StableDiffusionPipeline.save_lora_weights(
            aside.parent, unet_lora_layers=layers, weight_name=aside.name, safe_serialization=True
        )
