"""Numbers in options: what is none, or far too large, is one line and takes no time."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from flip.classify.settings import parse_k
from flip.diffusion.settings import parse_size
from flip.errors import ConfigError
from flip.settings import parse_count, parse_shots
from flip.training.settings import parse_square

NONE = ("", " ", "²", "٣", "1_0", "+1", "-1", "0x10", "1.0", "1e3", "9" * 5000)


@pytest.mark.parametrize("text", NONE)
def test_what_is_no_count(text: str) -> None:
    assert parse_count(text) is None


@pytest.mark.parametrize("text", NONE[1:])
@pytest.mark.parametrize("parse", [parse_k, parse_shots, parse_size, parse_square])
def test_options_refuse_it(parse: Callable[[str], object], text: str) -> None:
    with pytest.raises(ConfigError, match="pass "):
        parse(text)


@pytest.mark.parametrize("text", ["1:999999999", "1:100001", "5:3", "0:3", "1:", ":3"])
def test_ranges_of_k_that_are_none_or_too_long(text: str) -> None:
    with pytest.raises(ConfigError, match="^-k "):
        parse_k(text)


def test_counts_and_ranges() -> None:
    assert parse_k("3:6") == (3, 4, 5, 6)
    assert parse_k("7") == (7,)
    assert parse_shots("1, 16,all") == (1, 16, None)
    assert parse_size("512x768") == (512, 768)
    assert parse_square("64") == 64
