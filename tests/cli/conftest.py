"""The command line in this process, its answers read, and folders as a user has them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flip.cli.app import app
from tests.conftest import write_squares

#: Runs flip with arguments (``stdin=`` for its input) and returns exit code, stdout and stderr.
Flip = Callable[..., Any]


def one_line(result: Any, code: int) -> str:
    """Check that a command ended with this code and a line of flip's own; return that line."""
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    lines = result.stderr.strip().splitlines()
    assert lines, "nothing was said on stderr"
    assert lines[-1].startswith("flip: ")
    return str(lines[-1])


def read_json(result: Any) -> Any:
    """Return the JSON that a command printed."""
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def read_rows(result: Any) -> list[dict[str, Any]]:
    """Return the rows of JSON that a command printed."""
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """The cache folder of ``flip``; a module that converts checkpoints overrides it by ``kept``."""
    return tmp_path / "cache"


@pytest.fixture
def flip(tiny_model: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Flip:
    """Run flip in this process and in the test's folder, with the tiny model as default."""
    monkeypatch.setenv("FLIP_MODEL", str(tiny_model))
    monkeypatch.setenv("FLIP_CACHE", str(cache))
    monkeypatch.chdir(tmp_path)

    def call(*arguments: Any, stdin: str | None = None) -> Any:
        return CliRunner().invoke(app, [str(a) for a in arguments], input=stdin)

    return call


@pytest.fixture
def photo(squares: Path) -> Path:
    """A photo of the class red fox."""
    return squares / "test" / "red_fox" / "0.png"


@pytest.fixture
def birds(tmp_path: Path) -> Path:
    """``data/birds`` in the test's folder: 3 training photos and 2 test photos of each of 4 classes."""
    write_squares(tmp_path / "data" / "birds" / "train", photos=3)
    write_squares(tmp_path / "data" / "birds" / "test", seed=1, photos=2)
    return tmp_path / "data" / "birds"
