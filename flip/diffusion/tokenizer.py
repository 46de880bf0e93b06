"""transformers' CLIP tokenizer, made from the vocabulary that comes with open_clip: no file to fetch."""

from __future__ import annotations

import functools
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from flip.clip.vocabulary import clip_vocabulary

if TYPE_CHECKING:
    from flip.diffusion.pipeline import Component

CONTEXT_LENGTH = 77


def make_tokenizer(context_length: int = CONTEXT_LENGTH, pad_token: str | None = None) -> Component:
    """Return a ``transformers.CLIPTokenizer`` with the vocabulary of OpenAI's CLIP, which Stable Diffusion reads.

    Parameters
    ----------
    context_length : int
        Number of tokens of a text, the two marks of start and end included; longer texts are cut.
    pad_token : str, optional
        Fills short texts; the end mark without it. OpenCLIP's text encoders are filled with ``!``.
    """
    from transformers import CLIPTokenizer

    vocabulary, merges = _vocabulary()
    with tempfile.TemporaryDirectory() as folder:
        vocabulary_file, merges_file = Path(folder, "vocab.json"), Path(folder, "merges.txt")
        vocabulary_file.write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
        merges_file.write_text("\n".join(["#version: 0.2", *merges]) + "\n", encoding="utf-8")
        more = {} if pad_token is None else {"pad_token": pad_token}
        return CLIPTokenizer(str(vocabulary_file), str(merges_file), model_max_length=context_length, **more)


@functools.cache
def _vocabulary() -> tuple[dict[str, int], list[str]]:
    return clip_vocabulary()
