"""The tiny diffusion model of the tests of ``flip.diffusion``."""

from tests.diffusion.conftest import folder, pipeline

__all__ = ["folder", "pipeline"]
