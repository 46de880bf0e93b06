"""The documents as tests read them: pages, their blocks, and the command lines in these."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]

#: Every page that a user reads; docs/cli.md is generated.
PAGES = (ROOT / "README.md", *sorted(p for p in (ROOT / "docs").rglob("*.md") if p.name != "cli.md"))

#: A heading, or a fenced block with the text block right after it.
_PART = re.compile(
    r"^#+ (?P<heading>[^\n]*)$"
    r"|^```(?P<language>\S*)\n(?P<text>.*?)^```$(?:\s*^```text\n(?P<output>.*?)^```$)?",
    re.M | re.S,
)

#: Ends of a command in a line of shell.
_BETWEEN = {"|", "||", "&&", ";", "&", "(", ")", "do", "then"}

_ASSIGNMENT = re.compile(r"^\w+=")


class Block(NamedTuple):
    """A fenced block: the section that it is in, its language, its text, and the output shown right after it."""

    section: str
    language: str
    text: str
    output: str | None = None


def write_birds(folder: Path, squares: Path) -> Path:
    """Write data/birds into a folder, as the README has it: class folders of photos; return the folder."""
    for split in ("train", "test"):
        for kind in (squares / split).iterdir():
            target = folder / "data" / "birds" / kind.name
            target.mkdir(parents=True, exist_ok=True)
            for photo in kind.iterdir():
                shutil.copy(photo, target / f"{split}{photo.name}")
    return folder


def blocks(page: Path, *languages: str) -> list[Block]:
    """Return the blocks of a page in these languages, in order."""
    found, section = [], page.name
    for part in _PART.finditer(page.read_text(encoding="utf-8")):
        if part["heading"]:
            section = part["heading"]
        elif part["language"] in languages:
            found.append(Block(section, part["language"], part["text"], part["output"]))
    return found


def commands(block: Block) -> Iterator[list[str]]:
    """Yield the words of each ``flip`` command in a block of shell."""
    text = block.text.replace("\\\n", " ")
    if block.language == "console":
        # Continued lines begin with a space; others are what was typed after a prompt, or what was printed.
        text = "\n".join(line[2:] for line in text.splitlines() if line.startswith("$ "))
    for line in text.splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;()")
        lexer.whitespace_split = True
        yield from _of_line(list(lexer))


def _of_line(words: list[str]) -> Iterator[list[str]]:
    current: list[str] = []
    for word in [*words, ";"]:
        if word not in _BETWEEN:
            current.append(word)
            continue
        while current and _ASSIGNMENT.match(current[0]):
            del current[0]
        if "-m" in current and current[current.index("-m") + 1 :][:1] == ["flip"]:
            current = current[current.index("-m") + 1 :]
        if current[:1] == ["flip"]:
            yield _without_redirections(current)
        current = []


def _without_redirections(words: list[str]) -> list[str]:
    kept: list[str] = []
    for word in words:
        if kept and kept[-1] in (">", "2>", ">>", "<"):
            kept.pop()
        elif not re.match(r"^\d?>>?\S", word):
            kept.append(word)
    return kept
