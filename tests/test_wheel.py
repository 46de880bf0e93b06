"""The built wheel, outside the clone: what it installs, and the README's first command without any network."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.documents import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment with the wheel; what flip needs comes from the one that runs the tests."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "-w", folder, ROOT], check=True)
    (wheel,) = folder.glob("*.whl")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "env"], check=True)
    python = folder / "env" / "bin" / "python"
    subprocess.run([*pip, "--python", python, "install", "--no-deps", wheel], check=True)
    packages = next((folder / "env" / "lib").glob("python*/site-packages"))
    (packages / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    clean = {n: v for n, v in os.environ.items() if not n.startswith("FLIP_") and n != "PYTHONPATH"}
    cache = {"FLIP_CACHE": str(folder / "cache"), "HF_HUB_OFFLINE": "1"}
    return clean | cache | {"PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}"}


def without_network() -> list[str]:
    """Return the words that start a command in a network namespace with no interface, where the system lets us."""
    if shutil.which("unshare") and subprocess.run(["unshare", "-rn", "true"], capture_output=True).returncode == 0:
        return ["unshare", "-rn"]
    return []


def run(line: str | Sequence[str], folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a line of shell without a network; it must succeed."""
    words = [*without_network(), *(["bash", "-euo", "pipefail", "-c", line] if isinstance(line, str) else line)]
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done


def test_the_wheel_brings_all_that_it_promises(environment: dict[str, str], tmp_path: Path) -> None:
    where = run("python -c 'import flip; print(flip.__file__)'", tmp_path, environment).stdout
    assert "env/lib" in where, "not the clone"
    share = Path(where.strip()).parents[4] / "share"
    for file in (
        *("man/man1/flip.1", "bash-completion/completions/flip"),
        *("zsh/site-functions/_flip", "fish/vendor_completions.d/flip.fish"),
    ):
        assert (share / file).stat().st_size > 100
    assert "--seed" in run("flip demo --help", tmp_path, environment).stdout
    run("flip data sample -o birds && flip data info birds", tmp_path, environment)
    named = run("flip zeroshot --data birds --model sample", tmp_path, environment).stdout
    assert json.loads(named)["n"] == 720


def test_the_demo_of_the_readme_runs_offline(environment: dict[str, str], tmp_path: Path) -> None:
    (command,) = re.findall(r"^```bash\n(flip demo.*?)\n```", (ROOT / "README.md").read_text(), re.M | re.S)
    done = run(command, tmp_path, environment)
    assert "step 9 of 9" in done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    top1 = {(row["method"], row["sees"]): row["top1"] for row in rows}
    names = top1["zero-shot, CLIP of the sample", "clean names"]
    assert names >= 5 * 100 / 24
    assert max(v for (method, _), v in top1.items() if method.startswith("head")) > names
    assert top1["zero-shot, fine-tuned on captions", "clean names"] > names
    _, _, advice = done.stderr.partition("The same by hand, without a network:\n")
    offline = [line.strip() for line in advice.splitlines() if "--data sample" in line]
    assert len(offline) == 2
    for line in offline:
        run(line, tmp_path, environment)
