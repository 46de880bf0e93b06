"""Settings load nothing, and refuse what cannot be drawn."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields

import pytest

from flip.diffusion.settings import AugmentSettings, CheckpointSettings, DrawSettings, SamplerSettings
from flip.errors import ConfigError

HEAVY = {"numpy", "torch", "diffusers", "transformers", "PIL", "typer"}


def test_importing_the_settings_loads_the_standard_library_alone() -> None:
    code = "import sys, flip.diffusion.settings; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not HEAVY & set(loaded.split())


@pytest.mark.parametrize("kind", [CheckpointSettings, SamplerSettings, DrawSettings, AugmentSettings])
def test_every_setting_has_its_sentence(kind: type) -> None:
    assert all(f.metadata["help"].endswith((".", "]")) for f in fields(kind))


def test_the_keys_that_files_have() -> None:
    found = DrawSettings(size="512x768", strength=0.5).to_dict()
    assert list(found) == ["sampler", "steps", "guidance", "width", "height", "negative", "strength"]
    assert (found["width"], found["height"], found["strength"]) == (512, 768, 0.5)
    assert SamplerSettings().to_dict() == DrawSettings().to_dict()
    assert AugmentSettings().guidance == 5.0


@pytest.mark.parametrize(
    ("wrong", "said"),
    [({"per_class": 0}, "--per-class 0"), ({"draws": 0}, "--draws 0"), ({"filter": "x"}, "--filter 'x' is unknown")],
)
def test_a_training_set_of_nothing(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        AugmentSettings(**wrong)  # type: ignore[arg-type]
