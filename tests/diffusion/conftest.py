from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.diffusion.tiny import ldm_state, make_pipeline, save_ckpt


@pytest.fixture(scope="session")
def pipeline() -> Any:
    """The tiny model as a diffusers pipeline; tests do not change it."""
    return make_pipeline()


@pytest.fixture(scope="session")
def folder(pipeline: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model as a diffusers folder."""
    path = tmp_path_factory.mktemp("diffusion") / "folder"
    pipeline.save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def state(pipeline: Any) -> OrderedDict[str, torch.Tensor]:
    """Its weights in latent-diffusion naming."""
    return ldm_state(pipeline)


@pytest.fixture(scope="session")
def ckpt(state: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model as a Lightning checkpoint."""
    return save_ckpt(tmp_path_factory.mktemp("diffusion") / "tiny.ckpt", state)


@pytest.fixture(scope="session")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder for the whole run."""
    return tmp_path_factory.mktemp("cache")
