"""The ``.yaml`` beside a checkpoint, as latent-diffusion writes it: what the weights do not tell.

Numbers and words are read from it; classes that it names are not imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from flip.errors import CheckpointError
from flip.reading import read_bytes

_MOST_BYTES = 1 << 20
_PARAMETERIZATIONS = {"eps": "epsilon", "v": "v_prediction"}


@dataclass(frozen=True)
class OriginalConfig:
    """Hyper-parameters of a checkpoint, each None where the file does not say it.

    Attributes
    ----------
    prediction : {"epsilon", "v_prediction"} or None
    heads, head_width : int or None
        Attention heads of every level, or the channels of each head.
    latent_scale : float or None
        Factor of the latents.
    beta_start, beta_end : float or None
        Of the noise schedule.
    last_layer : bool or None
        Whether the text encoder's last layer is read, rather than the last but one.
    """

    prediction: str | None = None
    heads: int | None = None
    head_width: int | None = None
    latent_scale: float | None = None
    beta_start: float | None = None
    beta_end: float | None = None
    last_layer: bool | None = None


def read_original_config(checkpoint: Path) -> OriginalConfig:
    """Read the ``.yaml`` of the same name beside a checkpoint, empty where there is none.

    Raises
    ------
    CheckpointError
        If it is no such file.
    """
    import yaml  # type: ignore[import-untyped]

    file = next((f for f in (checkpoint.with_suffix(".yaml"), checkpoint.with_suffix(".yml")) if f.is_file()), None)
    if file is None:
        return OriginalConfig()
    try:
        if file.stat().st_size > _MOST_BYTES:
            raise ValueError("it is larger than 1 MiB")
        content = yaml.safe_load(read_bytes(file))
        params = content["model"]["params"]
        unet = _params(params, "unet_config", "network_config")
        text = _params(params, "cond_stage_config")
        prediction = params.get("parameterization") or (params.get("denoiser_config") and _denoiser(params))
        return OriginalConfig(
            prediction=_PARAMETERIZATIONS[str(prediction)] if prediction else None,
            heads=_number(unet, "num_heads"),
            head_width=_number(unet, "num_head_channels"),
            latent_scale=_share(params, "scale_factor"),
            beta_start=_share(params, "linear_start"),
            beta_end=_share(params, "linear_end"),
            last_layer=None if "layer" not in text else text["layer"] == "last",
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, yaml.YAMLError) as e:
        reason = " ".join(f"{type(e).__name__}: {e}".split())[:120]
        raise CheckpointError(
            f"{file} is no configuration of latent diffusion ({reason}); correct it, or move it away from {checkpoint}"
        ) from e


def _params(params: Mapping[str, object], *names: str) -> Mapping[str, object]:
    for name in names:
        section = params.get(name)
        if isinstance(section, Mapping) and isinstance(section.get("params"), Mapping):
            found: Mapping[str, object] = section["params"]
            return found
    return {}


def _denoiser(params: Mapping[str, object]) -> str:
    """Return "v" or "eps" from a configuration of Stability's generative-models, which names a class of scaling."""
    return "v" if "VScaling" in str(params["denoiser_config"]) else "eps"


def _number(params: Mapping[str, object], name: str) -> int | None:
    value = params.get(name)
    # -1 is latent-diffusion's word for "not this one".
    return value if isinstance(value, int) and value > 0 else None


def _share(params: Mapping[str, object], name: str) -> float | None:
    value = params.get(name)
    return float(value) if isinstance(value, (int, float)) and value > 0 else None
