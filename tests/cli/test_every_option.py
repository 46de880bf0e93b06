"""Every option of every command is used by a test."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from flip.cli.command_tree import command_tree

TESTS = Path(__file__).resolve().parents[1]

#: Tests of the command line and of whole jobs, without this file.
TEXT = "\n".join(f.read_text() for f in sorted(TESTS.rglob("test_*.py")) if f != Path(__file__).resolve())


def options() -> dict[str, set[str]]:
    """Return the spellings of each option, by the last of them."""
    entries, shared = command_tree()
    records = [*(r for e in entries for r in e.own), *(r for section in shared.values() for r in section)]
    spelled = [tuple(re.findall(r"(?<![\w<|])--?[a-zA-Z0-9][\w-]*", flags.split("<")[0])) for flags, _ in records]
    return {names[-1]: set(names) for names in spelled}


@pytest.mark.parametrize("option", sorted(options()))
def test_an_option_is_used_by_a_test(option: str) -> None:
    spellings = "|".join(re.escape(name) for name in options()[option])
    assert re.search(rf"[\"' ]({spellings})[\"' =]", TEXT), f"no test uses {option}"
