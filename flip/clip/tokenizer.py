"""A model's tokenizer: read from checked files, for any texts, and for tokens that the text tower knows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flip.clip.checks import read_json
from flip.clip.folder import TOKENIZER_FILES
from flip.data.text import utf8
from flip.errors import ModelError, reason_of

if TYPE_CHECKING:
    import torch

    from flip.clip.source import Source


class Tokenizer:
    """A tokenizer of open_clip that also takes names that are not UTF-8.

    Parameters
    ----------
    tokenize : callable
        open_clip's.
    source : Source
        The model's; it names the files for messages.
    vocabulary : int
        Tokens that the text tower knows; 0 if it does not say.
    """

    def __init__(self, tokenize: Callable[..., torch.Tensor], source: Source, vocabulary: int) -> None:
        self._tokenize, self._vocabulary = tokenize, vocabulary
        self._name = tokenizer_name(source)

    def __call__(self, texts: list[str], **options: Any) -> torch.Tensor:
        """Return tokens (n, context_length).

        Raises
        ------
        ModelError
            If the tokenizer's files do not do, or belong to another model.
        """
        texts = [utf8(text) for text in texts]
        try:
            tokens = self._tokenize(texts, **options)
        except Exception as e:
            raise ModelError(
                f"{self._name} cannot encode texts ({reason_of(e)}); fetch tokenizer.json and tokenizer_config.json "
                "again"
            ) from e
        if self._vocabulary and tokens.numel():
            least, most = int(tokens.min()), int(tokens.max())
            if least < 0 or most >= self._vocabulary:
                raise ModelError(
                    f"{self._name} gives token {most if least >= 0 else least}, and the model's vocab_size is "
                    f"{self._vocabulary}; put the files of the model's own tokenizer there"
                )
        return tokens

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenize, name)


def read_tokenizer(source: Source, staged: Path) -> Callable[..., torch.Tensor]:
    """Return open_clip's tokenizer of a staged folder.

    Raises
    ------
    ModelError
        If a file is damaged; the message names it.
    """
    import open_clip

    try:
        tokenize: Callable[..., torch.Tensor] = open_clip.get_tokenizer(f"local-dir:{staged}")
    except Exception as e:
        if source.tokenizer is not None:
            _require_readable(source.tokenizer)
        raise ModelError(
            f"{tokenizer_name(source)} cannot be read ({reason_of(e)}); fetch tokenizer.json and tokenizer_config.json "
            "again"
        ) from e
    return tokenize


def tokenizer_name(source: Source) -> str:
    """Return a model's tokenizer as messages call it."""
    if source.tokenizer is None:
        return f"CLIP's own tokenizer, which is that of {source.config},"
    files = ", ".join(name for name in TOKENIZER_FILES if (source.tokenizer / name).is_file())
    return f"the tokenizer in {source.tokenizer} ({files})"


def _require_readable(folder: Path) -> None:
    """Raise a ModelError that names the first damaged file of a tokenizer, if one is damaged by itself."""
    from tokenizers import Tokenizer as Fast

    for file in (folder / name for name in TOKENIZER_FILES if name.endswith(".json")):
        if file.is_file():
            read_json(file)
    whole = folder / "tokenizer.json"
    if whole.is_file():
        try:
            Fast.from_file(str(whole))
        except Exception as e:
            raise ModelError(f"{whole} is not a tokenizer ({reason_of(e)}); fetch it again") from e
