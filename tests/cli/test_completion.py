"""Help, version, and what shells complete: asked of bash, zsh and fish themselves where they are here."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from flip import names
from tests.cli.conftest import Flip, one_line

#: Text typed, a completion that must be offered, and one that must not.
TYPED = (
    ("flip kn", "knn", "zeroshot"),
    ("flip data c", "check", "info"),
    ("flip hybrid --head svm", "svm-linear", "gda"),
    ("flip knn --data x --vote ", "softmax", "auto"),
    ("flip zeroshot --model ViT-B-3", "ViT-B-32/openai", "sample"),
    ("flip embed --layout cu", "cub", "food-101"),
    ("flip zeroshot --prompts pl", "plain", "bird"),
    ("flip knn --split te", "test", "train"),
    ("flip augment --ckpt sa", "sample", "plain"),
    ("flip finetune --tar", "--target", "--data"),
)

BASH = r"""
source "$COMPLETION/flip.bash"
COMP_LINE="$1"; read -ra COMP_WORDS <<< "$1"; [[ "$1" == *" " ]] && COMP_WORDS+=("")
COMP_CWORD=$(( ${#COMP_WORDS[@]} - 1 )); COMP_POINT=${#1}
_flip_completion flip; printf '%s\n' "${COMPREPLY[@]}"
"""

ZSH = r"""
autoload -U compinit; compinit -u -d "$HOME/.zcompdump"
source "$COMPLETION/_flip"
# Stubs print the completions: zsh's own functions work in its line editor only.
_arguments() { print -l -- "$@" }; _describe() { print -l -- ${(P)2} ${(P)4} }; compadd() { print -l -- "$@" }
words=(${(z)1}); [[ "$1" == *" " ]] && words+=(""); CURRENT=${#words}
_flip_completion
"""

FISH = r"""
source "$COMPLETION/flip.fish"
complete --do-complete "$argv[1]"
"""


@pytest.fixture
def shell_environment(tmp_path: Path) -> dict[str, str]:
    """An environment whose ``flip`` is this one."""
    wrapper = tmp_path / "bin" / "flip"
    wrapper.parent.mkdir()
    wrapper.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m flip "$@"\n')
    wrapper.chmod(0o755)
    root = Path(__file__).resolve().parents[2]
    return os.environ | {
        "PATH": f"{wrapper.parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(root),
        "COMPLETION": str(root / "flip" / "cli" / "completion"),
        "HOME": str(tmp_path),
        "XDG_CONFIG_HOME": str(tmp_path),
    }


@pytest.mark.parametrize(("shell", "script"), [("bash", BASH), ("zsh", ZSH), ("fish", FISH)])
def test_shells_complete(shell: str, script: str, shell_environment: dict[str, str], tmp_path: Path) -> None:
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"no {shell} here")
    (tmp_path / "script").write_text(script)
    for typed, offered, other in TYPED:
        result = subprocess.run(
            [program, str(tmp_path / "script"), typed],
            env=shell_environment,
            capture_output=True,
            text=True,
            timeout=60,
            cwd=tmp_path,
        )
        words = result.stdout.replace('"', " ").replace(":", " ").split()
        assert offered in words, (shell, typed, result.stdout, result.stderr)
        assert other not in words, (shell, typed, result.stdout)


@pytest.mark.parametrize(("shell", "file"), [("bash", "flip.bash"), ("zsh", "_flip"), ("fish", "flip.fish")])
def test_the_files_that_come_along_are_what_the_command_prints(
    shell: str, file: str, flip: Flip, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flip.cli import completion

    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    (folder,) = completion.__path__
    assert (Path(folder) / file).read_text().startswith(flip("--show-completion", shell).stdout.strip())


def test_models_that_are_offered_exist() -> None:
    import open_clip

    known = {f"{arch}/{tag}" for arch, tag in open_clip.list_pretrained()}
    assert {name for name in names.MODELS if "/" in name and not name.startswith("hf-hub:")} <= known


def test_help_of_a_command_in_two_ways(flip: Flip) -> None:
    assert flip("help", "knn").stdout == flip("knn", "--help").stdout
    assert flip("help", "data", "check").stdout == flip("data", "check", "--help").stdout
    assert flip("help").stdout.startswith("Usage: flip [OPTIONS] COMMAND")
    assert "there is no command 'knm'; pass one of" in one_line(flip("help", "knm"), 2)
    assert flip("data").stdout == flip("data", "--help").stdout
    assert flip("-V").stdout == flip("--version").stdout


def test_no_summary_of_a_command_is_cut(flip: Flip) -> None:
    assert "..." not in flip("--help").stdout.replace("[ARGS]...", "")
    assert "..." not in flip("data", "--help").stdout.replace("[ARGS]...", "")
