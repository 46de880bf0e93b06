"""Names of the classes of diffusers and transformers, which are published without type information."""

from __future__ import annotations

from typing import Any

#: diffusers.StableDiffusionPipeline, AutoencoderKL, EMAModel and DiagonalGaussianDistribution.
Pipeline = Any
Autoencoder = Any
AveragedModel = Any
Posterior = Any
#: transformers.CLIPTextModel and CLIPTokenizer.
TextEncoder = Any
Tokenizer = Any
