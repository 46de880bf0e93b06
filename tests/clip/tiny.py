"""Tiny models in the forms in which people have them."""

import json
from pathlib import Path

import open_clip
import torch
from safetensors.torch import save_file

from tests.conftest import TINY_CONFIG

WORDS = ["a", "photo", "of", "red", "blue", "fox", "jay", "bird"]


def tiny_network(seed=0, **changes):
    """The network of ``TINY_CONFIG`` with random weights; changes go into ``model_cfg``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return open_clip.CLIP(**(TINY_CONFIG["model_cfg"] | changes)).eval()


def write_config(folder: Path, text=None, vision=None, **model_cfg) -> Path:
    """Write ``open_clip_config.json`` with changes."""
    folder.mkdir(parents=True, exist_ok=True)
    config = json.loads(json.dumps(TINY_CONFIG))
    config["model_cfg"]["text_cfg"] |= text or {}
    config["model_cfg"]["vision_cfg"] |= vision or {}
    config["model_cfg"] |= model_cfg
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    return folder


def write_tokenizer(folder: Path, start=True) -> Path:
    """Write a word-level tokenizer of Hugging Face with 12 words; its end of text is word 2."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = {word: i for i, word in enumerate(["<pad>", "<s>", "</s>", "<unk>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    marks = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **marks).save_pretrained(str(folder))
    return folder


def write_hub_cache(cache: Path, repository: str, source: Path) -> Path:
    """Copy a folder into a Hugging Face cache as it would lie there: links to blobs; returns the snapshot."""
    root = cache / f"models--{repository.replace('/', '--')}"
    snapshot = root / "snapshots" / ("ab" * 20)
    for folder in (snapshot, root / "refs", root / "blobs"):
        folder.mkdir(parents=True, exist_ok=True)
    (root / "refs" / "main").write_text("ab" * 20)
    for file in source.iterdir():
        (root / "blobs" / file.name).write_bytes(file.read_bytes())
        (snapshot / file.name).symlink_to(Path("../../blobs") / file.name)
    return snapshot


def write_parts(folder: Path, state, count=3, stem="open_clip_model") -> list[Path]:
    """Write weights in parts."""
    names = sorted(state)
    files = []
    for i in range(count):
        file = folder / f"{stem}-{i + 1:05d}-of-{count:05d}.safetensors"
        save_file({name: state[name].contiguous().clone() for name in names[i::count]}, file)
        files.append(file)
    return files


def write_clip_model(folder: Path, text=None, vision=None, seed=0, **save):
    """Write a tiny CLIPModel of transformers; returns it."""
    from transformers import CLIPConfig, CLIPModel

    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config={**sizes, "max_position_embeddings": 16, "projection_dim": 32, **(text or {})},
        vision_config={**sizes, "image_size": 32, "patch_size": 8, "projection_dim": 32, **(vision or {})},
        projection_dim=32,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = CLIPModel(config).eval()
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(str(folder), **save)
    return model
