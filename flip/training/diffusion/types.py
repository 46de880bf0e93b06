"""Names of the classes of diffusers and transformers, which are published without type information."""

from __future__ import annotations

from typing import Any

#: diffusers.StableDiffusionPipeline, AutoencoderKL, DDPMScheduler, EMAModel and DiagonalGaussianDistribution.
Pipeline = Any
Autoencoder = Any
NoiseSchedule = Any
AveragedModel = Any
Posterior = Any
#: transformers.CLIPTextModel and CLIPTokenizer.
TextEncoder = Any
Tokenizer = Any
