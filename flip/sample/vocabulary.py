"""The sample models' vocabulary: byte pairs learned from names and captions, in the files that CLIPTokenizer reads.

``python -m flip.sample.vocabulary FOLDER`` writes it again, byte for byte.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path

from flip.sample.captions import captions
from flip.sample.species import other_species

_MERGES = 360
_START, _END = "<|startoftext|>", "<|endoftext|>"
_OPENINGS = ("a photo of a", "a photo of", "a type of bird", "which has", "an image of the", "a drawing of a")


def write_vocabulary(folder: Path) -> int:
    """Learn the vocabulary, write it into a folder, and return its size.

    Parameters
    ----------
    folder : Path
        Gets ``vocab.json``, ``merges.txt`` and ``tokenizer_config.json``.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Punctuation(),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    base = [*alphabet, *(f"{character}</w>" for character in alphabet)]
    trainer = trainers.BpeTrainer(
        vocab_size=len(base) + _MERGES, initial_alphabet=alphabet, end_of_word_suffix="</w>", show_progress=False
    )
    tokenizer.train_from_iterator(_texts(), trainer)
    pairs = [tuple(pair) for pair in json.loads(tokenizer.to_str())["model"]["merges"]][:_MERGES]
    # The end mark has the largest id: that is how open_clip finds where a text ends.
    words = list(dict.fromkeys([*base, *("".join(pair) for pair in pairs), _START, _END]))
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = {word: number for number, word in enumerate(words)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    merges = "".join(f"{a} {b}\n" for a, b in pairs)
    (folder / "merges.txt").write_text(f"#version: 0.2\n{merges}", encoding="utf-8")
    settings = {"tokenizer_class": "CLIPTokenizer", "bos_token": _START, "eos_token": _END, "unk_token": _END}
    # "!" pads, as in OpenAI's CLIP: its id is smaller than the end mark's.
    config = {**settings, "pad_token": "!", "model_max_length": 40}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    return len(words)


def _texts() -> Iterator[str]:
    chance = random.Random(0)
    for species in other_species(400, seed=7):
        yield from captions(species, chance, 8)
        yield f"{chance.choice(_OPENINGS)} {species.name}."


if __name__ == "__main__":
    print(write_vocabulary(Path(sys.argv[1])))
