"""What a diffusion fine-tuning writes: sheets of samples, and the averaged weights."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from flip.device import Placement
from flip.diffusion.checkpoint import INDEX_FILE, save_pipeline
from flip.diffusion.diffusers_api import diffusers
from flip.diffusion.painter import Painter, Picture, picture_seed
from flip.diffusion.pictures import contact_sheet, save_sheet
from flip.diffusion.settings import DrawSettings
from flip.files import move_files, written_aside
from flip.training.diffusion.trainer import DiffusionTrainer

if TYPE_CHECKING:
    from flip.diffusion.pipeline import Pipeline

LORA_FILE = "pytorch_lora_weights.safetensors"

_SAMPLES, _SAMPLE_STEPS = 8, 20


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


def write_model(trainer: DiffusionTrainer, folder: Path) -> None:
    """Write the averaged weights: a diffusers folder, its index last, or the LoRA file."""
    with trainer.averaged_weights():
        if trainer.settings.lora:
            _write_lora(trainer.pipeline, folder / LORA_FILE)
            return
        staged = folder / ".model"
        shutil.rmtree(staged, ignore_errors=True)
        trainer.pipeline.unet.eval()
        save_pipeline(trainer.pipeline, staged)
    move_files(staged, folder, last=INDEX_FILE)
    shutil.rmtree(staged)


def _write_lora(pipeline: Pipeline, file: Path) -> None:
    from peft import get_peft_model_state_dict

    layers = {name: value.cpu() for name, value in get_peft_model_state_dict(pipeline.unet).items()}
    with written_aside(file, "pass -o with a folder that can hold it", durable=True) as aside:
        diffusers.StableDiffusionPipeline.save_lora_weights(
            aside.parent, unet_lora_layers=layers, weight_name=aside.name, safe_serialization=True
        )
