"""Print the manual page: ``python -m flip.cli.manual > flip/cli/man/flip.1``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from flip.cli.command_tree import Entry, Record, command_tree, shared_options

_ENVIRONMENT = (
    ("FLIP_DATA", "The data where --data is not given."),
    ("FLIP_MODEL", "The model where --model is not given."),
    ("FLIP_CACHE", "The folder of what is kept between runs."),
    ("FLIP_DEBUG", "Set to 1, an error prints its traceback."),
    ("HF_HUB_OFFLINE", "Set to 1, nothing connects to the model hub."),
)

_STATUS = (
    ("0", "Done."),
    ("1", "An error; one line on stderr says what was given, what is allowed and what to do."),
    ("2", "A usage error, or a value that no data could make valid."),
    ("3", "Done, but with --strict some input was unreadable."),
    ("129, 130, 143", "Interrupted (SIGHUP, SIGINT, SIGTERM); what was finished is kept."),
)


def manual() -> str:
    """Return the manual page as roff."""
    entries, shared = command_tree()
    lines = [
        ".TH FLIP 1",
        ".SH NAME",
        r"flip \- tell look-alike things apart with CLIP",
        ".SH SYNOPSIS",
        r"\fBflip\fR \fICOMMAND\fR [\fIOPTIONS\fR] [\fIARGUMENTS\fR]",
        ".SH DESCRIPTION",
        _text(entries[0].text),
        ".SH COMMANDS",
    ]
    for entry in entries[1:]:
        lines += _command(entry, shared)
    for title, records in shared.items():
        lines += [f".SH {title.upper()}", *_definitions(records)]
    lines += [".SH ENVIRONMENT", *_definitions(_ENVIRONMENT), ".SH EXIT STATUS", *_definitions(_STATUS)]
    return "\n".join(lines) + "\n"


def _command(entry: Entry, shared: dict[str, list[Record]]) -> Iterator[str]:
    yield f".SS {_text(entry.path)}"
    yield _text(entry.usage)
    for paragraph in entry.text.split("\n\n"):
        yield ".PP"
        yield _text(paragraph)
    yield from _definitions([*entry.arguments, *entry.own])
    also = [(f"{title[0].lower()}{title[1:]}", flags) for title, flags in shared_options(entry, shared)]
    if also:
        yield ".PP"
        told = (f"of the {title} {', '.join(flags)}" if flags else f"the {title}" for title, flags in also)
        yield _text(f"Also {'; '.join(told)}.")


def _definitions(records: Iterable[Record]) -> Iterator[str]:
    for term, sentence in records:
        yield ".TP"
        yield rf"\fB{_text(term)}\fR"
        yield _text(sentence)


def _text(text: str) -> str:
    """Return text as roff takes it: hyphens that can be copied, and no line that reads as a request."""
    text = " ".join(text.split()).replace("\\", r"\e").replace("-", r"\-").replace("'", r"\(aq")
    return rf"\&{text}" if text.startswith((".", r"\(aq")) else text


if __name__ == "__main__":
    print(manual(), end="")
