"""Print the reference of all commands as one Markdown page: ``python -m flip.cli.reference > docs/cli.md``."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence

from flip.cli.command_tree import Entry, Record, command_tree, shared_options

_WIDTH, _INDENT = 100, 32

_TOP = """\
# Commands

Printed by `python -m flip.cli.reference`; do not edit by hand.

`flip COMMAND --help` prints all options of one command. Here, options that several commands have are described once,
[at the end](#options-of-the-data). Every command also has `-h, --help`.
"""


def reference() -> str:
    """Return the reference page."""
    entries, shared = command_tree()
    parts = [_TOP, *(_section(entry, shared) for entry in entries)]
    parts += [f"## {title}\n\n{_block(_definitions(records))}" for title, records in shared.items()]
    return "\n".join(parts)


def _section(entry: Entry, shared: dict[str, list[Record]]) -> str:
    lines = [f"Usage: {entry.usage}"]
    if entry.text:
        lines += ["", *_paragraphs(entry.text)]
    tables = (("Arguments", entry.arguments), ("Options", entry.own), ("Commands", entry.commands))
    for title, records in tables:
        if records:
            lines += ["", f"{title}:", *_definitions(records)]
    text = f"## {entry.path}\n\n{_block(lines)}"
    also = "; ".join(_named(title, flags) for title, flags in shared_options(entry, shared))
    if also:
        text += "\n" + textwrap.fill(f"And {also}.", 120, break_on_hyphens=False, break_long_words=False) + "\n"
    return text


def _named(title: str, flags: Sequence[str]) -> str:
    """Return a link to a section, with the options of it that the command has unless it has all."""
    link = f"the [{title[0].lower()}{title[1:]}](#{title.lower().replace(' ', '-')})"
    return f"of {link} " + ", ".join(f"`{flag}`" for flag in flags) if flags else link


def _block(lines: Iterable[str]) -> str:
    return "\n".join(["```text", *lines, "```", ""])


def _paragraphs(text: str) -> Iterator[str]:
    for i, paragraph in enumerate(text.split("\n\n")):
        if i:
            yield ""
        yield from textwrap.wrap(paragraph, _WIDTH, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False)


def _definitions(records: Iterable[Record]) -> Iterator[str]:
    """Yield terms and their sentences in two columns, as ``--help`` has them."""
    for term, sentence in records:
        rest = textwrap.wrap(sentence, _WIDTH - _INDENT, break_on_hyphens=False) or [""]
        if len(term) > _INDENT - 4:
            yield f"  {term}"
            yield from (" " * _INDENT + line for line in rest)
        else:
            yield f"  {term:<{_INDENT - 2}}{rest[0]}".rstrip()
            yield from (" " * _INDENT + line for line in rest[1:])


if __name__ == "__main__":
    print(reference(), end="")
