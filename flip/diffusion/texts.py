"""Prompts of a diffusion model from class names and captions: one wording for training and for drawing."""

from __future__ import annotations

from flip.clip.prompts import class_prompts, data_prompts, fold
from flip.data.dataset import Dataset
from flip.diffusion.settings import AUTO, CAPTIONS
from flip.errors import DataError


def caption_prompt(name: str, caption: str) -> str:
    """Return a caption as it is where it names the class, else the class prompt and the caption."""
    return caption if fold(name) in fold(caption) else f"a photo of a {name}. {caption}"


def drawing_prompts(dataset: Dataset, prompts: str) -> tuple[tuple[str, ...], ...]:
    """Return the prompts of every class, without repeats, in the order of the photos.

    Parameters
    ----------
    dataset : Dataset
        Training photos only.
    prompts : str
        ``auto``: each caption with the class's name, class prompts for classes without captions. ``captions``: captions
        as they are. Else class prompts, as :func:`flip.clip.prompts.class_prompts` takes them.

    Raises
    ------
    DataError
        If ``captions`` are asked for and a class has none.
    ConfigError
        If ``prompts`` is none of these.
    """
    if prompts not in (AUTO, CAPTIONS):
        return data_prompts(prompts, dataset).texts
    plain = class_prompts("plain", dataset.classnames).texts
    chosen = []
    for label, name in enumerate(dataset.classnames):
        captions = dict.fromkeys(c for r in dataset.records if r.label == label for c in r.captions)
        if prompts == CAPTIONS and not captions:
            raise DataError(f"class {name!r} has no caption among its training photos; pass --prompts auto or plain")
        texts = captions if prompts == CAPTIONS else (caption_prompt(name, caption) for caption in captions)
        chosen.append(tuple(texts) or plain[label])
    return tuple(chosen)


def photo_prompts(dataset: Dataset, prompts: str) -> tuple[tuple[str, ...], ...]:
    """Return the prompts of every photo, from its own captions where those are wanted.

    Parameters
    ----------
    dataset : Dataset
    prompts : str
        As :func:`drawing_prompts` takes them.

    Raises
    ------
    DataError
        If ``captions`` are asked for and a photo has none.
    ConfigError
        If ``prompts`` is none of these.
    """
    captioned = prompts in (AUTO, CAPTIONS)
    of_class = data_prompts("plain" if captioned else prompts, dataset).texts
    chosen = []
    for record in dataset.records:
        if prompts == CAPTIONS and not record.captions:
            raise DataError(f"photo {record.path!r} has no caption; pass --prompts auto or plain")
        name = dataset.classnames[record.label]
        own = [c if prompts == CAPTIONS else caption_prompt(name, c) for c in record.captions] if captioned else []
        chosen.append(tuple(dict.fromkeys(own)) or of_class[record.label])
    return tuple(chosen)
