"""A diffusion model of the shape of Stable Diffusion v1, small enough to build in a second, and its CompVis form."""

from __future__ import annotations

import copy
import functools
import re
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch

SIZE = 16  # pixels a side; 8 latents

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
UNET_TOP = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}
ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


#: Beside a tiny checkpoint: heads of 64 channels, as Stable Diffusion 2 and XL have them at any width.
YAML = """
model:
  target: ldm.models.diffusion.ddpm.LatentDiffusion
  params:
    parameterization: "{parameterization}"
    linear_start: 0.00085
    linear_end: 0.0120
    unet_config:
      target: ldm.modules.diffusionmodules.openaimodel.UNetModel
      params: {{num_heads: -1, num_head_channels: 64}}
"""


def make_pipeline(seed: int = 0) -> Any:
    """Return a copy of one's own, with random weights, in float32 on the CPU."""
    return copy.deepcopy(_build(seed))


def make_v2(seed: int = 0) -> Any:
    """Stable Diffusion 2: OpenCLIP's text encoder, linear projections, heads of 64, and velocity."""
    return copy.deepcopy(_build_v2(seed))


def make_xl(seed: int = 0) -> Any:
    """Stable Diffusion XL: two text encoders, deeper attention at the second level, sizes as a condition."""
    return copy.deepcopy(_build_xl(seed))


@functools.cache
def _build_v2(seed: int) -> Any:
    from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel

    from flip.diffusion.ldm import SCHEDULER
    from flip.diffusion.tokenizer import make_tokenizer

    first = make_pipeline(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(64, 128),
            layers_per_block=1,
            cross_attention_dim=64,
            attention_head_dim=(1, 2),
            use_linear_projection=True,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        )
        text = _text(hidden_act="gelu")
    pipeline = StableDiffusionPipeline(
        vae=first.vae,
        text_encoder=text,
        tokenizer=make_tokenizer(pad_token="!"),
        unet=unet.eval(),
        scheduler=DDIMScheduler.from_config({**SCHEDULER, "prediction_type": "v_prediction"}),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@functools.cache
def _build_xl(seed: int) -> Any:
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel

    from flip.diffusion.tokenizer import make_tokenizer

    first = make_pipeline(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(64, 128),
            layers_per_block=1,
            transformer_layers_per_block=(1, 2),
            cross_attention_dim=128,
            attention_head_dim=(1, 2),
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=64 + 6 * 8,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        )
        first_text, second_text = _text(), _text(hidden_act="gelu", projected=True)
    first.vae.register_to_config(scaling_factor=0.13025)
    pipeline = StableDiffusionXLPipeline(
        vae=first.vae,
        text_encoder=first_text,
        text_encoder_2=second_text,
        tokenizer=make_tokenizer(),
        tokenizer_2=make_tokenizer(pad_token="!"),
        unet=unet.eval(),
        scheduler=EulerDiscreteScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            steps_offset=1,
            timestep_spacing="leading",
        ),
        add_watermarker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _text(hidden_act: str = "quick_gelu", *, projected: bool = False) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=49408,
        hidden_size=64,
        projection_dim=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=1,
        hidden_act=hidden_act,
    )
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config).eval()


def open_clip_names(text: Any, prefix: str, *, spare_block: bool) -> dict[str, torch.Tensor]:
    """Name a text encoder's weights as OpenCLIP does, with the last block that Stable Diffusion 2 does not read."""
    state = {name.removeprefix("text_model."): value for name, value in text.state_dict().items()}
    block = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "self_attn.out_proj": "attn.out_proj"}
    block |= {"mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}
    named = {
        "token_embedding.weight": state["embeddings.token_embedding.weight"],
        "positional_embedding": state["embeddings.position_embedding.weight"],
        "ln_final.weight": state["final_layer_norm.weight"],
        "ln_final.bias": state["final_layer_norm.bias"],
        "logit_scale": torch.tensor(4.6),
        "text_projection": state["text_projection.weight"].T if "text_projection.weight" in state else torch.eye(64),
    }
    layers = text.config.num_hidden_layers
    for layer in range(layers + spare_block):
        old = f"encoder.layers.{min(layer, layers - 1)}."
        new = f"transformer.resblocks.{layer}."
        for kind in ("weight", "bias"):
            parts = [state[f"{old}self_attn.{p}_proj.{kind}"] for p in "qkv"]
            named[f"{new}attn.in_proj_{kind}"] = torch.cat(parts)
            for theirs, ours in block.items():
                named[f"{new}{ours}.{kind}"] = state[f"{old}{theirs}.{kind}"]
    return {prefix + name: value for name, value in named.items()}


def v2_state(pipeline: Any) -> OrderedDict[str, torch.Tensor]:
    """Name the weights of Stable Diffusion 2 as its own code does."""
    texts = open_clip_names(pipeline.text_encoder, "cond_stage_model.model.", spare_block=True)
    return OrderedDict({**_images_state(pipeline), **texts})


def xl_state(pipeline: Any) -> OrderedDict[str, torch.Tensor]:
    """Name the weights of Stable Diffusion XL as its own code does."""
    first = {
        f"conditioner.embedders.0.transformer.text_model.{n.removeprefix('text_model.')}": v
        for n, v in pipeline.text_encoder.state_dict().items()
    }
    second = open_clip_names(pipeline.text_encoder_2, "conditioner.embedders.1.model.", spare_block=False)
    return OrderedDict({**_images_state(pipeline), **first, **second})


def _images_state(pipeline: Any) -> dict[str, torch.Tensor]:
    unet = {f"model.diffusion_model.{_unet_name(n, pipeline.unet)}": v for n, v in pipeline.unet.state_dict().items()}
    vae = {f"first_stage_model.{_vae_name(n)}": _conv(n, v) for n, v in pipeline.vae.state_dict().items()}
    return {**unet, **vae}


@functools.cache
def _build(seed: int) -> Any:
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    from flip.diffusion.ldm import SCHEDULER
    from flip.diffusion.tokenizer import make_tokenizer

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(32, 64),
            layers_per_block=1,
            cross_attention_dim=64,
            attention_head_dim=8,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        )
        vae = AutoencoderKL(
            block_out_channels=(32, 64),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            latent_channels=4,
            sample_size=SIZE,
        )
        text = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=49408,
                hidden_size=64,
                projection_dim=64,
                intermediate_size=128,
                num_hidden_layers=2,
                num_attention_heads=1,
                hidden_act="quick_gelu",
            )
        )
    pipeline = StableDiffusionPipeline(
        vae=vae.eval(),
        text_encoder=text.eval(),
        tokenizer=make_tokenizer(),
        unet=unet.eval(),
        scheduler=DDIMScheduler.from_config(SCHEDULER),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def ldm_state(pipeline: Any) -> OrderedDict[str, torch.Tensor]:
    """Name the weights as latent-diffusion does; written from its modules, not from anyone's converter."""
    text = {
        f"cond_stage_model.transformer.text_model.{n.removeprefix('text_model.')}": v
        for n, v in pipeline.text_encoder.state_dict().items()
    }
    text["cond_stage_model.transformer.text_model.embeddings.position_ids"] = torch.arange(77)[None]
    schedule = {"betas": torch.linspace(0, 1, 1000), "model_ema.decay": torch.tensor(0.9999)}
    return OrderedDict({**schedule, **_images_state(pipeline), **text})


def with_ema(
    state: OrderedDict[str, torch.Tensor], other: OrderedDict[str, torch.Tensor]
) -> OrderedDict[str, torch.Tensor]:
    """Add ``other``'s U-Net weights as the averaged ones."""
    averaged = {
        "model_ema." + name.removeprefix("model.").replace(".", ""): value
        for name, value in other.items()
        if name.startswith("model.diffusion_model.")
    }
    return OrderedDict({**state, **averaged})


def save_ckpt(file: Path, state: Any, **more: Any) -> Path:
    """Write what Lightning writes."""
    torch.save({"epoch": 3, "global_step": 470_000, "state_dict": state, **more}, file)
    return file


def _unet_name(name: str, unet: Any) -> str:
    # Two levels of one layer: conv, (resnet, attention), down, resnet | middle | each level two resnets, then up.
    for ours, theirs in UNET_TOP.items():
        if name.startswith(ours + "."):
            return theirs + name.removeprefix(ours)
    if found := re.match(r"down_blocks\.(\d)\.downsamplers\.0\.conv\.(.*)", name):
        return f"input_blocks.{2 * int(found[1]) + 2}.0.op.{found[2]}"
    if found := re.match(r"up_blocks\.(\d)\.upsamplers\.0\.conv\.(.*)", name):
        after_attention = "CrossAttn" in unet.config.up_block_types[int(found[1])]
        return f"output_blocks.{2 * int(found[1]) + 1}.{1 + after_attention}.conv.{found[2]}"
    if found := re.match(r"mid_block\.(resnets|attentions)\.(\d)\.(.*)", name):
        place = 1 if found[1] == "attentions" else 2 * int(found[2])
        return f"middle_block.{place}.{_resnet(found[3]) if found[1] == 'resnets' else found[3]}"
    found = re.match(r"(down|up)_blocks\.(\d)\.(resnets|attentions)\.(\d)\.(.*)", name)
    assert found, name
    block, layer = int(found[2]), int(found[4])
    place = f"input_blocks.{2 * block + 1 + layer}" if found[1] == "down" else f"output_blocks.{2 * block + layer}"
    rest = _resnet(found[5]) if found[3] == "resnets" else found[5]
    return f"{place}.{0 if found[3] == 'resnets' else 1}.{rest}"


def _resnet(rest: str) -> str:
    module, _, kind = rest.rpartition(".")
    return f"{RESNET[module]}.{kind}"


def _vae_name(name: str) -> str:
    name = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
    if "mid_block.attentions" in name:
        head, _, rest = name.partition("mid_block.attentions.0.")
        module, _, kind = rest.rpartition(".")
        return f"{head}mid.attn_1.{ATTENTION[module]}.{kind}"
    name = re.sub(r"up_blocks\.(\d)", lambda m: f"up.{1 - int(m[1])}", name)
    name = re.sub(r"down_blocks\.(\d)", r"down.\1", name)
    name = name.replace(".resnets.", ".block.")
    return re.sub(r"(down|up)samplers\.0\.", r"\1sample.", name)


def _conv(name: str, value: torch.Tensor) -> torch.Tensor:
    """The autoencoder's attention of latent-diffusion is made of 1 × 1 convolutions."""
    return value[:, :, None, None] if "attentions" in name and value.ndim == 2 else value
