"""Class prompts: the texts that the text tower reads for each class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flip.clip.coarse import coarse_word
from flip.clip.taxon import taxon_prompts
from flip.data.dataset import Dataset, Rank
from flip.data.text import read_text
from flip.errors import ConfigError, DataError, near_names
from flip.names import AUTO_PROMPTS, PROMPTS
from flip.reading import parse_json

#: A template is a string with one ``{}`` for the class name.
TEMPLATES: dict[str, tuple[str, ...]] = {
    "plain": ("a photo of a {}.",),
    "bird": ("a photo of a {}, a type of bird.",),
}


#: Candidates of ``--prompts auto``; of equals the first is chosen.
CANDIDATES = ("plain", "coarse", "clip", "taxon")


@dataclass(frozen=True)
class ClassPrompts:
    """The prompts of every class.

    Attributes
    ----------
    texts : tuple of c tuples of str
        One or more prompts per class.
    source : str
        What ``--prompts`` was given.
    unmatched : tuple of str
        Classes that a JSON file says nothing about; they got the plain template.
    classnames : tuple of c str
    """

    texts: tuple[tuple[str, ...], ...]
    source: str
    unmatched: tuple[str, ...] = ()
    classnames: tuple[str, ...] = ()


def data_prompts(prompts: str, dataset: Dataset) -> ClassPrompts:
    """Return the prompts of every class of a dataset; see :func:`class_prompts`."""
    return class_prompts(prompts, dataset.classnames, dataset.raw_names, dataset.ranks)


def candidate_prompts(dataset: Dataset) -> tuple[ClassPrompts, ...]:
    """Return the prompts that ``--prompts auto`` chooses among: those of ``CANDIDATES`` that fit the dataset."""
    found = []
    for name in CANDIDATES:
        try:
            found.append(data_prompts(name, dataset))
        except ConfigError:
            continue
    return tuple(found)


def class_prompts(
    prompts: str, classnames: Sequence[str], raw_names: Sequence[str] | None = None, ranks: Sequence[Rank] = ()
) -> ClassPrompts:
    """Return the prompts of every class.

    Parameters
    ----------
    prompts : str
        ``plain``, ``paper``, ``bird``, ``coarse``, ``clip``, ``taxon``, a template with ``{}``, a text file of
        templates, or a JSON file of class → sentences or phrases.
    classnames : sequence of str
        Clean names.
    raw_names : sequence of str, optional
        The names as folders write them, for ``paper``; the clean names when absent.
    ranks : sequence of Rank
        Groupings that came with the data, for ``taxon``.

    Raises
    ------
    ConfigError
        If ``prompts`` is none of these.
    DataError
        If a prompt file is malformed: a line without ``{}``, JSON of another shape, no class in common.
    """
    if prompts == AUTO_PROMPTS:
        raise ConfigError(
            f"--prompts auto chooses on training photos, in flip zeroshot, knn and hybrid with --data; pass one of "
            f"{', '.join(PROMPTS)} here"
        )
    if prompts.endswith(".json") and "{}" not in prompts:
        return _from_json(Path(prompts), classnames)
    texts: tuple[tuple[str, ...], ...]
    if prompts == "paper":
        texts = tuple((f"a photo of a {paper_name(raw)}",) for raw in raw_names or classnames)
    elif prompts == "taxon":
        texts = tuple((text,) for text in taxon_prompts(classnames, raw_names or classnames, ranks))
    else:
        templates = _coarse(classnames) if prompts == "coarse" else _templates(prompts)
        texts = tuple(tuple(t.replace("{}", name) for t in templates) for name in classnames)
    return ClassPrompts(texts, prompts, classnames=tuple(classnames))


def _coarse(classnames: Sequence[str]) -> tuple[str, ...]:
    """Return the template with the coarse word that all class names fit (Radford et al., ICML 2021, section 3.1.4)."""
    word = coarse_word(classnames)
    if word is None:
        raise ConfigError(
            "--prompts coarse: the class names do not all fit one word such as bird, flower or car; pass a template "
            "such as 'a photo of a {}, a type of insect.'"
        )
    return (f"a photo of a {{}}, a type of {word}.",)


def paper_name(raw: str) -> str:
    """Return a raw class name as in the paper's prompts: lower case, underscores, no number."""
    head, dot, tail = raw.partition(".")
    return (tail if dot and head.isdigit() and tail else raw).replace(" ", "_").lower()


def _templates(prompts: str) -> tuple[str, ...]:
    if prompts in TEMPLATES:
        return TEMPLATES[prompts]
    if prompts == "clip":
        from flip.clip.vocabulary import openai_templates

        return openai_templates()
    if "{}" in prompts:
        return (prompts,)
    file = Path(prompts)
    if not file.is_file():
        looks_like_file = file.suffix or "/" in prompts
        problem = "no such prompt file" if looks_like_file else "a template needs {} where the class name goes"
        raise ConfigError(
            f"--prompts {prompts!r}: {problem}{near_names(prompts, PROMPTS)}; "
            f"pass {', '.join(PROMPTS)}, a template such as 'a photo of a {{}}.', or a file"
        )
    return _from_text(file)


def _from_text(file: Path) -> tuple[str, ...]:
    lines = [(i, line.strip()) for i, line in enumerate(read_text(file).splitlines(), 1)]
    lines = [(i, line) for i, line in lines if line and not line.startswith("#")]
    if not lines:
        raise DataError(f"{file} holds no template; write one per line, such as 'a photo of a {{}}.'")
    for i, line in lines:
        if "{}" not in line:
            raise DataError(f"{file} line {i}: {line[:60]!r} has no {{}}; write {{}} where the class name goes")
    return tuple(line for _, line in lines)


def _from_json(file: Path, classnames: Sequence[str]) -> ClassPrompts:
    if not file.is_file():
        raise ConfigError(f"--prompts {file}: no such file; pass a JSON file of class → list of sentences")
    try:
        content = parse_json(read_text(file))
    except ValueError as e:
        raise DataError(f"{file} is not JSON ({e}); it holds class → list of sentences") from e
    if not isinstance(content, dict):
        raise DataError(f"{file} holds a {type(content).__name__}; it must be an object of class → list of sentences")
    by_folded = {fold(name): _sentences(file, name, value) for name, value in content.items()}
    matched = {name: by_folded.get(fold(name), ()) for name in classnames}
    unmatched = tuple(name for name, sentences in matched.items() if not sentences)
    if len(unmatched) == len(classnames):
        raise DataError(
            f"{file} names none of the {len(classnames)} classes; it has {', '.join(map(repr, list(content)[:3]))}, "
            f"the data {', '.join(map(repr, classnames[:3]))}"
        )
    plain = TEMPLATES["plain"][0]
    texts = tuple(
        tuple(about_class(name, s) for s in matched[name]) or (plain.replace("{}", name),) for name in classnames
    )
    return ClassPrompts(texts, str(file), unmatched, tuple(classnames))


def about_class(name: str, text: str, otherwise: str = "{}, which has {text}") -> str:
    """Return a text that names its class: as it is where it does, else put into a sentence with the name.

    Parameters
    ----------
    name, text : str
    otherwise : str
        The sentence, with ``{}`` for the name and ``{text}`` for the text.
    """
    return text if fold(name) in fold(text) else otherwise.format(name, text=text)


def fold(name: str) -> str:
    """Return a name as names are compared: letters and digits, lower case, single spaces."""
    spaced = "".join(ch if ch.isalnum() else " " for ch in name.replace("'", "").replace("’", ""))
    return " ".join(spaced.casefold().split())


def _sentences(file: Path, name: str, value: object) -> tuple[str, ...]:
    sentences = [value] if isinstance(value, str) else value
    if not isinstance(sentences, list) or not all(isinstance(s, str) for s in sentences):
        raise DataError(f"{file}: class {name!r} holds {type(value).__name__}; it must be a list of sentences")
    return tuple(s.strip() for s in sentences if s.strip())
