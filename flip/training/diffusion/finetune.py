"""Fine-tune a diffusion model on a dataset's captions: U-Net in full or LoRA, resumable, with samples on the way."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from flip.data.dataset import Dataset
from flip.device import bf16_in_hardware, keep_freed_memory, place, training_accelerator
from flip.diffusion.checkpoint import INDEX_FILE, Loaded, load_pipeline, save_pipeline
from flip.diffusion.diffusers_api import diffusers
from flip.diffusion.painter import DrawSettings, Painter, Picture, picture_seed
from flip.diffusion.pictures import contact_sheet, save_sheet
from flip.errors import ConfigError
from flip.files import write_json
from flip.training.diffusion.autoencoder import train_autoencoder
from flip.training.diffusion.examples import Example, TextBank, Views, affordable_views, encode_views, read_examples
from flip.training.diffusion.scratch import build_pipeline
from flip.training.diffusion.trainer import DiffusionTraining, Trainer

RESULT_FILE = "finetune.json"
LOG_FILE = "log.jsonl"
LORA_FILE = "pytorch_lora_weights.safetensors"

_CHECKPOINT = "checkpoint.pt"
_START = "start"
_ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
_SAMPLES, _SAMPLE_STEPS = 8, 20


@dataclass(frozen=True)
class Hooks:
    """What a caller hears of a training; every one may be left out.

    Attributes
    ----------
    say : callable
        Called with a line for people.
    photos : callable
        Called with the number of photos that were just encoded.
    step : callable
        Called with the steps done, all steps, and the loss.
    """

    say: Callable[[str], None] = lambda _: None
    photos: Callable[[int], None] = lambda _: None
    step: Callable[[int, int, float], None] = lambda *_: None


def finetune(
    dataset: Dataset,
    folder: Path,
    settings: DiffusionTraining,
    *,
    start: Loaded | dict[str, Any],
    prompts: str = "plain",
    device: str = "auto",
    precision: str = "auto",
    workers: int = 1,
    resume: bool = False,
    overwrite: bool = False,
    hooks: Hooks = Hooks(),
) -> dict[str, Any]:
    """Train a diffusion model on the training split and write it into a folder.

    Parameters
    ----------
    dataset : Dataset
    folder : Path
        Gets a diffusers folder, or the LoRA file; ``log.jsonl``, ``finetune.json``, ``samples/``; while it is trained
        also ``checkpoint.pt``.
    settings : DiffusionTraining
    start : Loaded, or dict
        A model of the shape of Stable Diffusion, or the configuration of one to be built and trained from nothing.
    prompts : str
        Class prompts, as :func:`flip.clip.prompts.class_prompts` takes them.
    device, precision : str
        As ``--device`` and ``--precision``; bf16 is autocast over float32 weights.
    workers : int
        Threads that decode photos.
    resume : bool
        Go on from the folder's checkpoint where there is one.
    overwrite : bool
        Begin anew in a folder that holds a run.

    Returns
    -------
    dict
        What ``finetune.json`` holds.

    Raises
    ------
    ConfigError, CheckpointError, DataError
    """
    began = time.perf_counter()
    accelerator = training_accelerator(device, resolve_training_precision(precision, device))
    if accelerator.device.type == "cpu":
        keep_freed_memory()
    if accelerator.is_main_process:
        _require_own_folder(folder, resume=resume, overwrite=overwrite)
    accelerator.wait_for_everyone()
    examples = read_examples(dataset, prompts)
    name, fingerprint, pipeline = _starting_pipeline(start, folder, settings, examples, workers, accelerator, hooks)
    _require_stable_diffusion(pipeline, name)
    size = settings.size or pipeline.unet.config.sample_size * pipeline.vae_scale_factor
    trainer = _make_trainer(
        pipeline, examples, settings, size, workers, accelerator, hooks, scratch=isinstance(start, dict)
    )
    decided = _decided(settings, dataset, fingerprint)
    if resume and (folder / _CHECKPOINT).is_file():
        trainer.load(folder / _CHECKPOINT, decided)
        hooks.say(f"going on from step {trainer.step} of {trainer.steps}")
    losses = _loop(trainer, pipeline, examples, folder, decided, size, accelerator, hooks)
    summary = {
        "ckpt": name,
        "photos": len(examples),
        "steps": trainer.steps,
        "photos_a_step": trainer.photos_a_step,
        "loss": losses[-1] if losses else None,
        "trained": "lora" if settings.lora else "unet",
        "size": size,
        "precision": accelerator.mixed_precision.replace("no", "fp32"),
        "device": accelerator.device.type,
        "seconds": round(time.perf_counter() - began, 1),
        "settings": asdict(settings),
        "data": dataset.fingerprint(),
    }
    if accelerator.is_main_process:
        _write(trainer, pipeline, folder, settings)
        write_json(folder / RESULT_FILE, summary)
        (folder / _CHECKPOINT).unlink(missing_ok=True)
        shutil.rmtree(folder / _START, ignore_errors=True)
    accelerator.wait_for_everyone()
    return summary


def resolve_training_precision(precision: str, device: str) -> str:
    """Return "fp32" or "bf16": what ``--precision`` means for training.

    Raises
    ------
    ConfigError
        For fp16, which overflows in training.
    """
    if precision == "fp16":
        raise ConfigError("--precision fp16 overflows in training; pass bf16, fp32 or auto")
    if precision != "auto":
        return precision
    placed = place(device).device
    return "bf16" if placed.type == "cuda" and bf16_in_hardware(placed) else "fp32"


def _require_own_folder(folder: Path, *, resume: bool, overwrite: bool) -> None:
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file; pass -o with a folder")
    if folder.is_dir() and any(folder.iterdir()) and not (resume or overwrite):
        raise ConfigError(f"{folder} already holds files; pass -o with another folder, --resume, or --overwrite")
    folder.mkdir(parents=True, exist_ok=True)
    if not resume:
        for file in (_CHECKPOINT, LOG_FILE, RESULT_FILE):
            (folder / file).unlink(missing_ok=True)
        shutil.rmtree(folder / _START, ignore_errors=True)


def _starting_pipeline(
    start: Loaded | dict[str, Any],
    folder: Path,
    settings: DiffusionTraining,
    examples: list[Example],
    workers: int,
    accelerator: Any,
    hooks: Hooks,
) -> tuple[str, str, Any]:
    if isinstance(start, Loaded):
        return start.name, start.fingerprint, start.pipeline
    if accelerator.num_processes > 1:
        raise ConfigError("--from-scratch trains in one process; leave out accelerate launch")
    if not (folder / _START / INDEX_FILE).is_file():
        pipeline = build_pipeline(start, settings.seed)
        size = settings.size or pipeline.unet.config.sample_size * pipeline.vae_scale_factor
        views = Views(examples, size, settings.views, settings.seed, workers)
        total = int(start["vae_steps"])

        def report(step: int, loss: float) -> None:
            if (step + 1) % 100 == 0:
                hooks.say(f"autoencoder: step {step + 1} of {total}, error {loss:.4f}")

        train_autoencoder(
            pipeline.vae, views, start, accelerator.device, settings.seed, report, autocast=accelerator.autocast
        )
        save_pipeline(pipeline.to("cpu"), folder / _START)
    loaded = load_pipeline(folder / _START)
    return "from scratch", json.dumps(start, sort_keys=True), loaded.pipeline


def _require_stable_diffusion(pipeline: Any, name: str) -> None:
    parts = {"unet": "UNet2DConditionModel", "vae": "AutoencoderKL", "text_encoder": "CLIPTextModel"}
    for part, kind in parts.items():
        if type(getattr(pipeline, part, None)).__name__ != kind:
            raise ConfigError(
                f"{name} is a {type(pipeline).__name__}; only models of the shape of Stable Diffusion are trained"
            )


def _make_trainer(
    pipeline: Any,
    examples: list[Example],
    settings: DiffusionTraining,
    size: int,
    workers: int,
    accelerator: Any,
    hooks: Hooks,
    *,
    scratch: bool,
) -> Trainer:
    if size % 8 or size % pipeline.vae_scale_factor:
        raise ConfigError(f"--size {size} is no multiple of {max(8, pipeline.vae_scale_factor)}; pass for example 512")
    pipeline.to(accelerator.device, torch.float32)
    side = size // pipeline.vae_scale_factor
    latent_bytes = pipeline.vae.config.latent_channels * side * side * 4
    views = Views(examples, size, affordable_views(settings.views, len(examples), latent_bytes), settings.seed, workers)
    latents = encode_views(pipeline.vae, views, accelerator.device, hooks.photos)
    unread = len(examples) - len(latents.numbers)
    if unread:
        hooks.say(f"{unread} of {len(examples)} training photos cannot be read and are left out")
    every = ["", *(text for example in examples for text in (*example.prompts, *example.captions))]
    texts = TextBank(pipeline.tokenizer, pipeline.text_encoder, every, frozen=not scratch)
    _choose_learning(pipeline, settings, scratch=scratch)
    return Trainer(pipeline, accelerator, examples, latents, texts, settings, hooks.say)


def _choose_learning(pipeline: Any, settings: DiffusionTraining, *, scratch: bool) -> None:
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


def _decided(settings: DiffusionTraining, dataset: Dataset, fingerprint: str) -> dict[str, Any]:
    own = {name: value for name, value in asdict(settings).items() if name not in ("save_every", "sample_every")}
    return {**own, "data": dataset.fingerprint(), "ckpt": fingerprint}


def _loop(
    trainer: Trainer,
    pipeline: Any,
    examples: list[Example],
    folder: Path,
    decided: dict[str, Any],
    size: int,
    accelerator: Any,
    hooks: Hooks,
) -> list[float]:
    settings, losses = trainer.settings, []
    log = folder / LOG_FILE
    if accelerator.is_main_process:
        _keep_log_until(log, trainer.step)
    while trainer.step < trainer.steps:
        losses.append(trainer.train_step())
        hooks.step(trainer.step, trainer.steps, losses[-1])
        if not accelerator.is_main_process:
            continue
        row = {"step": trainer.step, "loss": round(losses[-1], 6), "lr": trainer.learning_rate(trainer.step - 1)}
        with log.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(row) + "\n")
        finished = trainer.step == trainer.steps
        if trainer.step % settings.save_every == 0 or finished:
            trainer.save(folder / _CHECKPOINT, decided)
        if settings.sample_every and (trainer.step % settings.sample_every == 0 or finished):
            sheet = folder / "samples" / f"step-{trainer.step:06d}.png"
            draw_samples(trainer, pipeline, examples, size, sheet, accelerator)
    return losses


def _keep_log_until(log: Path, step: int) -> None:
    """Drop the rows of steps that are taken again."""
    if log.is_file():
        rows = [line for line in log.read_text(encoding="utf-8").splitlines() if json.loads(line)["step"] <= step]
        log.write_text("".join(row + "\n" for row in rows), encoding="utf-8")


def draw_samples(
    trainer: Trainer, pipeline: Any, examples: list[Example], size: int, file: Path, accelerator: Any
) -> None:
    """Draw the same prompts from the same noise as last time with the averaged weights, on one sheet."""
    prompts = list(dict.fromkeys((e.captions or e.prompts)[0] for e in examples))
    chosen = prompts[:: max(1, len(prompts) // _SAMPLES)][:_SAMPLES]
    pictures = [Picture(prompt, picture_seed(trainer.settings.seed, prompt, 0)) for prompt in chosen]
    unet = accelerator.unwrap_model(pipeline.unet)
    copy = diffusers.StableDiffusionPipeline(**pipeline.components, requires_safety_checker=False)
    was_training = unet.training
    unet.eval()
    with trainer.averaged_weights(), accelerator.autocast():
        settings = DrawSettings("ddim", _SAMPLE_STEPS, 5.0, size, size)
        painter = Painter(copy, place_of(accelerator), settings, batch_size=4)
        images = [image for _, image in painter.draw(pictures)]
    unet.train(was_training)
    save_sheet(contact_sheet([images[:4], images[4:]] if len(images) > 4 else [images]), file)


def place_of(accelerator: Any) -> Any:
    """Return the placement of a training."""
    from flip.device import Placement

    return Placement(accelerator.device, accelerator.process_index, accelerator.num_processes, accelerator.state)


def _write(trainer: Trainer, pipeline: Any, folder: Path, settings: DiffusionTraining) -> None:
    """Write the averaged weights: a diffusers folder, its index last, or the LoRA file."""
    with trainer.averaged_weights():
        if settings.lora:
            from peft import get_peft_model_state_dict

            layers = {name: value.cpu() for name, value in get_peft_model_state_dict(pipeline.unet).items()}
            diffusers.StableDiffusionPipeline.save_lora_weights(
                folder, unet_lora_layers=layers, weight_name=LORA_FILE, safe_serialization=True
            )
            return
        aside = folder / ".model"
        shutil.rmtree(aside, ignore_errors=True)
        pipeline.unet.eval()
        save_pipeline(pipeline, aside)
    for entry in sorted(aside.iterdir(), key=lambda path: path.name == INDEX_FILE):
        if (folder / entry.name).is_dir():
            shutil.rmtree(folder / entry.name)
        entry.replace(folder / entry.name)
    aside.rmdir()
