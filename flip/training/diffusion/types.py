"""What training uses of diffusers' and transformers' classes, which are published without type information."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch

    class Autoencoder(torch.nn.Module):
        """diffusers.AutoencoderKL."""

        config: AutoencoderConfig
        dtype: torch.dtype
        quant_conv: Convolution | None

        def encode(self, pixels: torch.Tensor) -> Encoded:
            """Return the latents of photos (n, 3, h, w) as a distribution."""

        def decode(self, latents: torch.Tensor) -> Decoded:
            """Return the photos of latents (n, channels, h, w)."""

        def register_to_config(self, *, scaling_factor: float) -> None:
            """Change the configuration."""

    class TextEncoder(torch.nn.Module):
        """transformers.CLIPTextModel."""

        config: TextConfig
        device: torch.device


class AutoencoderConfig(Protocol):
    """An autoencoder's channels, and the factor that brings its latents to unit deviation."""

    latent_channels: int
    scaling_factor: float


class TextConfig(Protocol):
    """A text encoder's width, number of words and length."""

    hidden_size: int
    vocab_size: int
    max_position_embeddings: int


class Convolution(Protocol):
    """A convolution with a bias."""

    weight: torch.Tensor
    bias: torch.Tensor


class Posterior(Protocol):
    """diffusers' DiagonalGaussianDistribution over latents, each (n, channels, h, w)."""

    mean: torch.Tensor
    std: torch.Tensor

    def kl(self) -> torch.Tensor:
        """Return the KL divergence from a standard normal of each latent, shape (n,)."""
        ...


class Encoded(Protocol):
    """What an autoencoder's ``encode`` returns."""

    latent_dist: Posterior


class Decoded(Protocol):
    """What an autoencoder's ``decode`` returns: photos (n, 3, h, w)."""

    sample: torch.Tensor


class NoiseConfig(Protocol):
    """What a noise schedule predicts ("epsilon", "v_prediction"), and in how many steps."""

    prediction_type: str
    num_train_timesteps: int


class NoiseSchedule(Protocol):
    """diffusers.DDPMScheduler."""

    config: NoiseConfig
    alphas_cumprod: torch.Tensor

    def add_noise(self, clean: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """Return the latents at their timesteps."""
        ...

    def get_velocity(self, clean: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """Return the velocities of the latents at their timesteps."""
        ...


class AveragedModel(Protocol):
    """diffusers' EMAModel: an exponential moving average of parameters."""

    shadow_params: list[torch.Tensor]
    optimization_step: int

    def to(self, device: torch.device) -> None:
        """Move the average to a device."""
        ...

    def step(self, parameters: Sequence[torch.Tensor]) -> None:
        """Take the parameters into the average."""
        ...

    def store(self, parameters: Sequence[torch.Tensor]) -> None:
        """Keep the parameters aside."""
        ...

    def copy_to(self, parameters: Sequence[torch.Tensor]) -> None:
        """Set the parameters to the average."""
        ...

    def restore(self, parameters: Sequence[torch.Tensor]) -> None:
        """Set the parameters to those kept aside."""
        ...


class Tokens(Protocol):
    """A tokenizer's answer: tokens (n, length)."""

    input_ids: torch.Tensor


class Tokenizer(Protocol):
    """transformers.CLIPTokenizer."""

    model_max_length: int

    def __len__(self) -> int:
        """The number of words."""
        ...

    def __call__(
        self, texts: Sequence[str], *, padding: str, max_length: int, truncation: bool, return_tensors: str
    ) -> Tokens:
        """Return the tokens of texts."""
        ...
