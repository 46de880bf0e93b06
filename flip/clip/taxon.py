"""Taxonomic prompts, in the form of the captions that BioCLIP models learned from (Stevens et al., CVPR 2024)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from flip.data.dataset import Rank
from flip.errors import ConfigError

#: The ranks above the species, as a taxonomy lists them.
HIGHER = ("kingdom", "phylum", "class", "order", "family", "genus")
GENUS, SCIENTIFIC = "genus", "scientific"


def taxon_prompts(classnames: Sequence[str], raw_names: Sequence[str], ranks: Sequence[Rank]) -> tuple[str, ...]:
    """Return "a photo of Animalia Chordata Aves … Turdus merula with common name Blackbird." of each class.

    Ranks that the data does not have are left out, and so is the common name where a class is called by its genus and
    species.

    Parameters
    ----------
    classnames, raw_names : sequences of c str
    ranks : sequence of Rank
        Of the data; ``genus`` or ``scientific`` (genus and species) is among them.

    Raises
    ------
    ConfigError
        If neither is.
    """
    groups = {rank.name: rank.groups for rank in ranks}
    if not groups.keys() & {GENUS, SCIENTIFIC}:
        raise ConfigError(
            "--prompts taxon: the data comes with no genus or scientific name of its classes, as iNaturalist 2021 and "
            "Birdsnap do; pass --prompts plain, or a JSON file of class → sentences"
        )
    texts = []
    for i, (name, raw) in enumerate(zip(classnames, raw_names, strict=True)):
        own = {rank: group[i] for rank, group in groups.items()}
        genus, epithet = _binomial(own, name, raw)
        higher = [own[rank].capitalize() for rank in HIGHER[:-1] if own.get(rank)]
        taxon = " ".join(filter(None, [*higher, genus, epithet]))
        common = "" if name.casefold() == f"{genus} {epithet}".strip().casefold() else f" with common name {name}"
        texts.append(f"a photo of {taxon}{common}.")
    return tuple(texts)


def _binomial(ranks: Mapping[str, str], name: str, raw: str) -> tuple[str, str]:
    """Return genus and epithet of a class; the epithet is empty where nothing says it."""
    genus, _, epithet = ranks.get(SCIENTIFIC, "").partition(" ")
    genus = genus or ranks.get(GENUS, "")
    if not epithet:
        # iNaturalist's names end in genus and epithet, with spaces in the clean name and underscores in the raw one.
        for words in (name.split(), raw.split("_")):
            lower = [word.casefold() for word in words]
            if genus.casefold() in lower[:-1]:
                epithet = " ".join(words[lower.index(genus.casefold()) + 1 :])
                break
    return genus.capitalize(), epithet.lower()
