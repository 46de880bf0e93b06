"""Settings of the classifiers that learn from labelled photos. Standard library only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flip import names
from flip.errors import ConfigError, near_names
from flip.settings import option, parse_count

#: Temperature of the softmax vote, as Wu et al. (CVPR 2018) chose it.
DEFAULT_TEMPERATURE = 0.07

#: The k values that ``-k auto`` chooses from, each used when there are enough training photos.
AUTO_K = (*range(1, 21), 25, 30, 40, 50, 75, 100)


@dataclass(frozen=True, kw_only=True)
class KnnSettings:
    """How nearest neighbours vote."""

    k: str = option("auto", "Neighbours that vote: a number, a range A:B, or auto; chosen by leave-one-out on train.")
    vote: str = option("softmax", "How neighbours vote; softmax weighs them by similarity.", choices=names.VOTES)
    temperature: float = option(DEFAULT_TEMPERATURE, "Temperature of the softmax vote.")
    index: str = option(
        "auto",
        "How neighbours are found: flat is exact; auto is exact unless very many photos are compared with very many.",
        choices=names.INDEXES,
    )
    recall: float = option(
        0.95, "Share of the true neighbours that ivf and hnsw are tuned to find; the one reached is printed."
    )
    neighbors: bool = option(False, "List each photo's neighbours with path, label and similarity.")
    text: str = option(
        "none",
        "prompts: average the vote with zero-shot probabilities; the share is chosen by leave-one-out on train.",
        choices=("none", "prompts"),
    )

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise ConfigError(
                f"--temperature {self.temperature:g} is not positive; pass for example {DEFAULT_TEMPERATURE}"
            )
        if not 0 < self.recall <= 1:
            raise ConfigError(f"--recall {self.recall:g} is no share; pass one above 0 and up to 1, such as 0.95")
        parse_k(self.k)
        require_word("--vote", self.vote, names.VOTES)
        require_word("--index", self.index, names.INDEXES)
        require_word("--text", self.text, ("none", "prompts"))


@dataclass(frozen=True, kw_only=True)
class HeadSettings:
    """The head that is fitted on the features, and its text side."""

    head: str = option(
        "auto",
        "What is fitted on the features; auto chooses by cross-validation on the training photos.",
        choices=names.HEADS,
    )
    text: str = option(
        "prompts",
        "Text beside the photo: none, class prompts, or each photo's own captions (at test time too).",
        choices=names.TEXT_SIDES,
    )

    def __post_init__(self) -> None:
        require_word("--head", self.head, names.HEADS)
        require_word("--text", self.text, names.TEXT_SIDES)


#: Values of k that one range may have.
MOST_KS = 100_000


def parse_k(text: str) -> tuple[int, ...] | None:
    """Return the k values that ``-k`` names, or None for ``auto``.

    Raises
    ------
    ConfigError
        If the text is neither a positive number, a range ``A:B`` nor ``auto``.
    """
    if text == "auto":
        return None
    low, colon, high = text.partition(":")
    first, last = parse_count(low.strip()), parse_count((high if colon else low).strip())
    if first and last and last - first >= MOST_KS:
        raise ConfigError(f"-k {text!r} has more than {MOST_KS:,} values; pass a shorter range, or auto")
    ks = tuple(range(first, last + 1)) if first and last else ()
    if not ks:
        raise ConfigError(f"-k {text!r} is not a number of neighbours; pass a number such as 5, a range 3:20, or auto")
    return ks


def require_word(flag: str, word: str, words: Sequence[str]) -> None:
    """Raise a ConfigError unless a setting is one of its words."""
    if word not in words:
        raise ConfigError(f"{flag} {word!r} is unknown{near_names(word, words)}; pass one of {', '.join(words)}")
