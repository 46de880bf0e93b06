"""Killed commands go on to the same result, and those that share a cache with them."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.fuzz import races
from tests.fuzz.kills import COMMANDS, Command, Ground, survive


@pytest.mark.timeout(600)
def test_a_killed_embedding_goes_on_to_the_same_table(tmp_path: Path) -> None:
    assert survive(Ground(tmp_path), COMMANDS[0], 1, random.Random(1)) == []


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_processes_on_one_cache_are_not_harmed_by_the_death_of_one() -> None:
    assert races.main(1, seed=3) == []


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_a_killed_command_goes_on_to_the_same_result(command: Command, tmp_path: Path) -> None:
    assert survive(Ground(tmp_path), command, 3, random.Random(2)) == []
