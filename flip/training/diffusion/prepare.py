"""What a diffusion fine-tuning begins with: the pipeline, encoded photos and texts, and the trained parameters."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from flip.diffusion.checkpoint import INDEX_FILE, Loaded, load_pipeline, save_pipeline
from flip.errors import ConfigError
from flip.files import JsonObject
from flip.training.diffusion.autoencoder import train_autoencoder
from flip.training.diffusion.examples import Example, TextBank, Views, affordable_views, encode_views
from flip.training.diffusion.scratch import build_pipeline, read_scratch_config
from flip.training.diffusion.trainer import DiffusionTrainer
from flip.training.listener import Listener
from flip.training.resume import CHECKPOINTS
from flip.training.settings import DiffusionSettings, Hardware

if TYPE_CHECKING:
    from accelerate import Accelerator

    from flip.diffusion.pipeline import Pipeline

log = logging.getLogger(__name__)

#: Folder of a pipeline from scratch whose autoencoder is trained, until the run is finished.
START = "start"

_ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]

#: A loaded model, or the configuration of one to be built.
Start = Loaded | JsonObject


def starting_point(model: Loaded | None, settings: DiffusionSettings) -> Start:
    """Return a loaded model, or the configuration of one to be built."""
    if settings.from_scratch is None:
        if model is None:
            raise ConfigError("no model given; pass one to fine-tune, or from_scratch with a configuration")
        return model
    if model is not None:
        raise ConfigError("--from-scratch begins with random weights; leave out --ckpt")
    return read_scratch_config(settings.from_scratch)


def start_fingerprint(start: Start) -> str:
    """Return the fingerprint of a loaded model, or a hash of a configuration, 16 hex digits."""
    if isinstance(start, Loaded):
        return start.fingerprint
    return hashlib.sha256(json.dumps(start, sort_keys=True).encode()).hexdigest()[:16]


def _pipeline(
    start: Start,
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
    if not (folder / START / INDEX_FILE).is_file():
        pipeline = build_pipeline(start, settings.seed)
        size = settings.size or pipeline.unet.config.sample_size * pipeline.vae_scale_factor
        views = Views(examples, size, settings.views, settings.seed, workers)
        autocast = accelerator.autocast
        train_autoencoder(pipeline.vae, views, start, accelerator.device, settings.seed, autocast=autocast)
        save_pipeline(pipeline.to("cpu"), folder / START)
    return load_pipeline(folder / START).pipeline


def _require_stable_diffusion(pipeline: Pipeline, name: str) -> None:
    parts = {"unet": "UNet2DConditionModel", "vae": "AutoencoderKL", "text_encoder": "CLIPTextModel"}
    for part, kind in parts.items():
        if type(getattr(pipeline, part, None)).__name__ != kind:
            raise ConfigError(
                f"{name} is a {type(pipeline).__name__}; only models of the shape of Stable Diffusion are trained"
            )


def make_trainer(
    start: Start,
    folder: Path,
    settings: DiffusionSettings,
    examples: list[Example],
    hardware: Hardware,
    accelerator: Accelerator,
    listener: Listener,
) -> DiffusionTrainer:
    """Encode photos and texts, and return the trainer of a model."""
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
