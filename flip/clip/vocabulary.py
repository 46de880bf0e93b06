"""Texts that come with open_clip: CLIP's templates, and its tokenizer's vocabulary."""

from __future__ import annotations

import importlib.util
import runpy
from pathlib import Path


def openai_templates() -> tuple[str, ...]:
    """Return CLIP's 80 ImageNet templates as strings with ``{}`` (Radford et al., ICML 2021)."""
    package = importlib.util.find_spec("open_clip")
    assert package is not None, "open_clip is a requirement"
    assert package.submodule_search_locations is not None, "open_clip is a package"
    # The one module by itself: its package imports torch, and the templates are only text.
    file = Path(package.submodule_search_locations[0]) / "zero_shot_metadata.py"
    templates = runpy.run_path(str(file))["OPENAI_IMAGENET_TEMPLATES"]
    return tuple(template("{}") for template in templates)


def clip_vocabulary() -> tuple[dict[str, int], list[str]]:
    """Return the vocabulary of OpenAI's CLIP (piece → id, marks as transformers names them) and its merges ("a b")."""
    from open_clip.tokenizer import SimpleTokenizer

    tokenizer = SimpleTokenizer()
    marks = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    vocabulary = {marks.get(piece, piece): number for piece, number in tokenizer.encoder.items()}
    return vocabulary, [" ".join(pair) for pair in tokenizer.bpe_ranks]
