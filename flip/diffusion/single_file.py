"""A checkpoint of one file in latent-diffusion naming as a diffusers pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from flip.device import parameters_without_memory
from flip.diffusion import ldm, ldm_config
from flip.diffusion.original_config import OriginalConfig, read_original_config
from flip.diffusion.tokenizer import make_tokenizer
from flip.errors import CheckpointError
from flip.files import JsonObject

if TYPE_CHECKING:
    import torch

    from flip.diffusion.pipeline import Component, Pipeline

_V_PREDICTION = "v_prediction"

#: Latent pixels a side of the Stable Diffusion 2 that predicts v.
_V2_LATENT_SIZE = 96


def make_pipeline(state: ldm.State, file: Path, base: Pipeline | None, prediction: str | None) -> Pipeline:
    """Build a pipeline from the weights of a checkpoint; its parameters are the given tensors, not copies.

    Parameters
    ----------
    state : mapping
        As :func:`flip.diffusion.ldm.select_weights` returns it.
    file : Path
        The checkpoint; a ``.yaml`` of its name beside it counts.
    base : diffusers pipeline, optional
        Gives what the file lacks, and the configuration of what it has.
    prediction : {"epsilon", "v_prediction"}, optional

    Raises
    ------
    CheckpointError
        If it is of another family, weights are missing or do not fit, or what it predicts cannot be told.
    """
    try:
        return _make(state, file, base, prediction)
    except (LookupError, ArithmeticError, ValueError, TypeError, AttributeError, RuntimeError) as e:
        # A configuration read from weights of odd shapes fails anywhere in the libraries.
        raise CheckpointError(f"{file} holds weights of odd shapes ({_brief(e)}); fetch it again") from e


def _make(state: ldm.State, file: Path, base: Pipeline | None, prediction: str | None) -> Pipeline:
    from flip.diffusion.diffusers_api import diffusers

    family, original = ldm.family_of(state, file), read_original_config(file)
    signs = {"unet": ldm.UNET_IN, "vae": ldm.VAE_IN, **{text.kind: text.sign for text in family.texts}}
    absent = [kind for kind, sign in signs.items() if sign not in state]
    if absent and base is None:
        raise CheckpointError(
            f"{file} has no {' and no '.join(absent)} ({signs[absent[0]]} is missing); pass --base with a diffusers "
            f"folder that has it, or a whole {family.name} checkpoint"
        )
    predicts = _prediction(state, family, original, prediction, file, base)
    parts = {
        kind: _build(kind, state, family, file, _config(kind, state, family, original, predicts, file, base))
        for kind in signs
        if kind not in absent
    }
    if base is not None:
        made: Pipeline = type(base)(**_base_options(base), **{**base.components, **parts})
        made.scheduler = type(made.scheduler).from_config(made.scheduler.config, prediction_type=predicts)
        return made
    _require_matching_texts(parts, family, file)
    schedule, tokenizers = _scheduler(state, family, original, predicts), _tokenizers(parts, family)
    made = getattr(diffusers, family.pipeline)(**parts, **tokenizers, scheduler=schedule, **_OPTIONS[family.name])
    return made


#: What a pipeline is made with beside its networks.
_UNCHECKED = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
_OPTIONS: dict[str, JsonObject] = {
    ldm.V1.name: _UNCHECKED,
    ldm.V2.name: _UNCHECKED,
    ldm.XL.name: {"add_watermarker": False},
}


def _base_options(base: Pipeline) -> JsonObject:
    if "safety_checker" in base.components:
        return {"requires_safety_checker": base.components["safety_checker"] is not None}
    config: JsonObject = getattr(base, "config", {})
    return {"force_zeros_for_empty_prompt": config.get("force_zeros_for_empty_prompt", True), "add_watermarker": False}


def _prediction(
    state: ldm.State,
    family: ldm.Family,
    original: OriginalConfig,
    given: str | None,
    file: Path,
    base: Pipeline | None,
) -> str:
    """Return the prediction type: as given, else of the .yaml, a key among the weights, the base, or the family."""
    said = given or original.prediction or (_V_PREDICTION if "v_pred" in state else None)
    if said is None and base is not None:
        said = base.scheduler.config.get("prediction_type")
    if said is None and family is ldm.V2:
        raise CheckpointError(
            f"{file} is {family.name}, whose weights do not tell what it predicts; pass --prediction v_prediction (as "
            "the models of 768 pixels) or epsilon (of 512), or put its .yaml beside it"
        )
    return said or "epsilon"


def _scheduler(state: ldm.State, family: ldm.Family, original: OriginalConfig, prediction: str) -> Component:
    from flip.diffusion.diffusers_api import diffusers

    config: JsonObject = {**ldm.SCHEDULER, "prediction_type": prediction}
    if original.beta_start and original.beta_end:
        config |= {"beta_start": original.beta_start, "beta_end": original.beta_end}
    if "ztsnr" in state:
        config |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    if family is ldm.XL:
        own = {key: value for key, value in config.items() if key not in ("clip_sample", "set_alpha_to_one")}
        return diffusers.EulerDiscreteScheduler.from_config({"timestep_spacing": "leading", **own})
    return diffusers.DDIMScheduler.from_config(config)


def _tokenizers(parts: Mapping[str, Component], family: ldm.Family) -> dict[str, Component]:
    """Make the tokenizer of each text encoder; OpenCLIP fills short texts with ``!``."""
    return {
        text.kind.replace("text_encoder", "tokenizer"): make_tokenizer(
            parts[text.kind].config.max_position_embeddings, "!" if text.open_clip else None
        )
        for text in family.texts
    }


def _require_matching_texts(parts: Mapping[str, Component], family: ldm.Family, file: Path) -> None:
    widths = [parts[text.kind].config.hidden_size for text in family.texts]
    reads = parts["unet"].config.cross_attention_dim
    if sum(widths) != reads:
        raise CheckpointError(
            f"{file}: its text encoder gives {sum(widths)} numbers per token and its U-Net reads {reads}; it is no "
            f"whole {family.name} checkpoint"
        )


def _config(
    kind: str,
    state: ldm.State,
    family: ldm.Family,
    original: OriginalConfig,
    predicts: str,
    file: Path,
    base: Pipeline | None,
) -> Component:
    """Return the configuration of a component: of the base where there is one, else as the weights have it."""
    if base is not None and base.components.get(kind) is not None:
        return base.components[kind].config
    try:
        if kind == "vae":
            return ldm_config.vae_config(state, family, original)
        if kind != "unet":
            text = next(text for text in family.texts if text.kind == kind)
            return ldm_config.text_config(state, text, original)
        config = ldm_config.unet_config(state, family, original, file)
    except (KeyError, IndexError, ValueError) as e:
        raise _cut(kind, family, file, e) from e
    larger = family is ldm.V2 and predicts == _V_PREDICTION
    return config | {"sample_size": _V2_LATENT_SIZE, "upcast_attention": True} if larger else config


def _build(kind: str, state: ldm.State, family: ldm.Family, file: Path, config: Component) -> Component:
    """Build one component of this configuration."""
    from flip.diffusion.diffusers_api import convert, diffusers

    text = next((text for text in family.texts if text.kind == kind), None)
    try:
        with parameters_without_memory():
            if text is not None:
                model, weights = _text_model(text, state, config)
            elif kind == "unet":
                model = diffusers.UNet2DConditionModel.from_config(config)
                weights = convert.convert_ldm_unet_checkpoint(dict(state), config)
            else:
                model = diffusers.AutoencoderKL.from_config(config)
                weights = convert.convert_ldm_vae_checkpoint(dict(state), config)
    except (KeyError, IndexError, ValueError) as e:
        raise _cut(kind, family, file, e) from e
    return fill(model, weights, kind, file)


def _cut(kind: str, family: ldm.Family, file: Path, error: Exception) -> CheckpointError:
    return CheckpointError(f"{file} holds no whole {kind} of {family.name} ({_brief(error)}); fetch it again")


def _brief(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:120]


def _text_model(
    text: ldm.TextEncoder, state: ldm.State, config: Component
) -> tuple[Component, dict[str, torch.Tensor]]:
    """Return an empty text encoder, and its weights."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    own = CLIPTextConfig(**config) if isinstance(config, dict) else config
    model: Component = (CLIPTextModelWithProjection if text.kind == "text_encoder_2" else CLIPTextModel)(own)
    found = {name.removeprefix(text.prefix): value for name, value in state.items() if name.startswith(text.prefix)}
    projection = found.pop("text_projection", None)
    if text.open_clip:
        from flip.diffusion.text_tower import rename_open_clip

        renamed = rename_open_clip(found, own.num_hidden_layers)
        renamed["embeddings.position_embedding.weight"] = found["positional_embedding"]
        found = {"text_model." + name: value for name, value in renamed.items()}
    # transformers 5.6 left out the level "text_model" that every checkpoint has.
    below = any(name.startswith("text_model.") for name in model.state_dict())
    weights = found if below else {name.removeprefix("text_model."): value for name, value in found.items()}
    if text.kind == "text_encoder_2" and projection is not None:
        weights["text_projection.weight"] = projection.T.contiguous()
    return model, weights


def fill(model: Component, weights: Mapping[str, torch.Tensor], kind: str, file: Path) -> Component:
    """Give a model its weights, each of them, and put it in ``eval()``.

    Raises
    ------
    CheckpointError
        If a weight is missing, left over, or of another shape.
    """
    import torch

    wanted = model.state_dict()
    missing = [name for name in wanted if name not in weights]
    extra = [name for name in weights if name not in wanted]
    wrong = [name for name, value in wanted.items() if name in weights and not _fits(weights[name], value)]
    if missing or extra or wrong:
        first = f"{missing[0]} is missing" if missing else f"{(wrong or extra)[0]} does not fit"
        count = len(missing) + len(extra) + len(wrong)
        raise CheckpointError(
            f"{file}: {first} ({count} weights of the {kind} in all); it is no Stable Diffusion checkpoint, cut, or of "
            "another shape than --base"
        )
    # Nothing is computed in eight bits here.
    wide = {
        name: v.to(torch.float16) if v.element_size() == 1 and v.is_floating_point() else v
        for name, v in weights.items()
    }
    model.load_state_dict(wide, assign=True)
    return model.eval().requires_grad_(False)


def _fits(weight: torch.Tensor, parameter: torch.Tensor) -> bool:
    return weight.shape == parameter.shape and weight.is_floating_point() == parameter.is_floating_point()
