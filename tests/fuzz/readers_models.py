"""Readers of models: folders of open_clip and transformers, checkpoints, diffusers folders, LoRA files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from flip.clip.model import load_model
from flip.diffusion.checkpoint import load_pipeline
from flip.diffusion.folders import load_folder
from flip.diffusion.original_config import read_original_config
from flip.diffusion.pickles import read_pickled_tensors
from flip.diffusion.weight_files import read_metadata, read_safetensors, tensor_names
from tests.clip.tiny import write_clip_model, write_config, write_tokenizer
from tests.conftest import write_model
from tests.diffusion.tiny import YAML, make_pipeline, save_ckpt
from tests.fuzz.campaign import Reader

EVIL = "import os\nopen(os.environ['FLIP_FUZZ_CANARY'], 'w')\nclass T: pass\n"


def make_open_clip(folder: Path) -> None:
    """A model folder with Python beside it."""
    write_model(folder)
    (folder / "evil.py").write_text(EVIL)


def make_with_tokenizer(folder: Path) -> None:
    """A model folder with a tokenizer of Hugging Face."""
    import open_clip

    from tests.conftest import TINY_CONFIG

    write_config(folder, {"vocab_size": 12, "hf_tokenizer_name": "org/words"})
    text = TINY_CONFIG["model_cfg"]["text_cfg"] | {"vocab_size": 12}
    network = open_clip.CLIP(**TINY_CONFIG["model_cfg"] | {"text_cfg": text})
    save_file(network.state_dict(), folder / "open_clip_model.safetensors")
    write_tokenizer(folder)
    (folder / "evil.py").write_text(EVIL)


def make_transformers(folder: Path) -> None:
    """A folder of transformers' CLIP."""
    write_clip_model(folder)
    (folder / "evil.py").write_text(EVIL)


def read_model(folder: Path) -> Any:
    """Load a model, and encode a text."""
    model = load_model(str(folder), cache=folder.parent / "cache")
    return model.encode_texts(["a bird"]).shape


def make_checkpoints(folder: Path) -> None:
    """Weights as pickles, old and new, and as safetensors; their configuration."""
    state = {f"model.{i}.weight": torch.ones(4, 3) * i for i in range(3)}
    save_ckpt(folder / "new.ckpt", state)
    torch.save(state, folder / "old.pt", _use_new_zipfile_serialization=False)
    save_file(state, folder / "plain.safetensors", {"format": "pt", "lora_adapter_metadata": "{}"})
    (folder / "new.yaml").write_text(YAML.format(parameterization="v"))
    index = {"weight_map": dict.fromkeys(state, "plain.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def read_checkpoints(folder: Path) -> Any:
    """Read the tensors of each."""
    tensors = {
        "new": read_pickled_tensors(folder / "new.ckpt"),
        "old": read_pickled_tensors(folder / "old.pt"),
        "plain": read_safetensors(folder / "plain.safetensors"),
    }
    read_metadata(folder / "plain.safetensors")
    tensor_names(folder / "model.safetensors.index.json")
    read_original_config(folder / "new.ckpt")
    return {name: sorted(part) for name, part in tensors.items()}


def make_diffusers(folder: Path) -> None:
    """A diffusers folder with Python beside it."""
    make_pipeline().save_pretrained(folder)
    (folder / "evil.py").write_text(EVIL)


def read_diffusers(folder: Path) -> Any:
    """Load it."""
    return sorted(load_folder(folder).components)


def make_lora(folder: Path) -> None:
    """A LoRA file and its base."""
    make_pipeline().save_pretrained(folder / "base")
    unet = make_pipeline().unet
    layers = [name for name, _ in unet.named_modules() if name.endswith(("attn1.to_q", "attn2.to_v"))]
    state = {}
    for name in layers:
        out, width = unet.get_submodule(name).weight.shape
        state |= {f"unet.{name}.lora_A.weight": torch.ones(2, width), f"unet.{name}.lora_B.weight": torch.ones(out, 2)}
    save_file(
        state, folder / "lora.safetensors", {"lora_adapter_metadata": json.dumps({"unet.r": 2, "unet.lora_alpha": 2})}
    )


def read_lora(folder: Path) -> Any:
    """Add it to the base."""
    return load_pipeline(folder / "lora.safetensors", base=folder / "base", cache=folder.parent / "cache").name


READERS = (
    Reader("open_clip", make_open_clip, read_model, files="*[!y]", cost=5),
    Reader("tokenizer", make_with_tokenizer, read_model, files="*.json", cost=5),
    Reader("transformers", make_transformers, read_model, files="*[!y]", cost=5),
    Reader("checkpoint files", make_checkpoints, read_checkpoints),
    Reader("diffusers", make_diffusers, read_diffusers, cost=40),
    Reader("lora", make_lora, read_lora, files="*.safetensors", cost=40),
)
