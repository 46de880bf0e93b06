"""The README's first command, as it stands, without any network."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def without_network():
    """Return what starts a command in a network namespace with no interface, where the system lets us."""
    if shutil.which("unshare") and subprocess.run(["unshare", "-rn", "true"], capture_output=True).returncode == 0:
        return ["unshare", "-rn"]
    return []


def run_offline(line, folder, environment):
    """Run a line of shell without a network; it must succeed."""
    words = [*without_network(), "bash", "-euo", "pipefail", "-c", line]
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.timeout(1200)
def test_demo(tmp_path):
    (command,) = re.findall(r"^```bash\n(flip demo.*?)\n```", (ROOT / "README.md").read_text(), re.M | re.S)
    binaries = str(Path(sys.executable).parent)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FLIP_")}
    environment |= {"FLIP_CACHE": str(tmp_path / "cache"), "PATH": binaries + os.pathsep + os.environ["PATH"]}
    done = run_offline(command, tmp_path, environment)
    assert "step 9 of 9" in done.stderr
    assert "9 steps on 24 drawn species, 240 training and 720 test photos" in done.stderr.splitlines()[1]
    assert re.search(r"^from \d+ % \(.*\) to \d+ % \(", done.stderr, re.M)
    assert done.stderr.count("--data PHOTOS") == 2
    _, _, advice = done.stderr.partition("The same by hand, without a network:\n")
    offline = [line.strip() for line in advice.splitlines() if "--data sample" in line]
    assert len(offline) == 2
    for line in offline:
        run_offline(line, tmp_path, environment)
    folder = tmp_path / "flip-demo"
    summary = json.loads((folder / "demo.json").read_text())
    printed = [json.loads(line) for line in done.stdout.splitlines()]
    assert printed == summary["rows"]
    top1 = {(row["method"], row["sees"]): row["top1"] for row in printed}
    assert top1["zero-shot, CLIP of the sample", "clean names"] >= 5 * 100 / 24
    assert (
        max(v for (m, _), v in top1.items() if m.startswith("head"))
        > top1["zero-shot, CLIP of the sample", "clean names"]
    )
    assert all(row["ci95"][0] < row["top1"] < row["ci95"][1] and row["n"] == 720 for row in printed)
    assert {"species.png", "drawn.png", "few-shot.png", "tuned", "diffusion", "augmented"} <= {
        p.name for p in folder.iterdir()
    }
