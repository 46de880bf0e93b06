"""flip tells look-alike things apart with CLIP.

A folder of photos goes in, an honest number and a usable classifier come out. The command line is ``flip``; the library
can do all that a command does, in the same few lines::

    import flip

    birds = flip.open_dataset("data/birds")
    features = flip.extract_features(birds, flip.load_model("ViT-B-32/openai"))
    train, test = features.split("train"), features.split("test")
    head = flip.make_head("gda").fit(train)
    print(flip.evaluate(head, test))

Importing it loads nothing heavy: each name below is imported when it is first used.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flip.bars import progress_bar
    from flip.classify.classifier import load_classifier, make_head
    from flip.classify.knn import KnnClassifier
    from flip.classify.training_set import TrainingSet
    from flip.clip.model import load_model
    from flip.clip.prompts import class_prompts
    from flip.data.open import open_dataset
    from flip.diffusion.augment import augment
    from flip.diffusion.checkpoint import load_pipeline
    from flip.diffusion.generate import generate
    from flip.embed.extractor import extract_features
    from flip.embed.texts import build_zero_shot_classifier
    from flip.studies.protocol import evaluate, run_protocol
    from flip.training.clip.finetune import finetune

__version__ = "0.2.0"

# OpenMP's threads spin while they wait, which costs several times the work on a busy machine. To sleep at once costs up
# to half more on an idle one, where waking takes as long as the wait: they spin for about the time of a wake-up. OpenMP
# reads this when a library that uses it is loaded, such as torch.
if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
    os.environ.update(OMP_WAIT_POLICY="PASSIVE", GOMP_SPINCOUNT="2000")

__all__ = [
    "KnnClassifier",
    "TrainingSet",
    "augment",
    "build_zero_shot_classifier",
    "class_prompts",
    "evaluate",
    "extract_features",
    "finetune",
    "generate",
    "load_classifier",
    "load_model",
    "load_pipeline",
    "make_head",
    "open_dataset",
    "progress_bar",
    "run_protocol",
]

#: The module of each public name.
_MODULES = {
    "KnnClassifier": "flip.classify.knn",
    "TrainingSet": "flip.classify.training_set",
    "augment": "flip.diffusion.augment",
    "build_zero_shot_classifier": "flip.embed.texts",
    "class_prompts": "flip.clip.prompts",
    "evaluate": "flip.studies.protocol",
    "extract_features": "flip.embed.extractor",
    "finetune": "flip.training.clip.finetune",
    "generate": "flip.diffusion.generate",
    "load_classifier": "flip.classify.classifier",
    "load_model": "flip.clip.model",
    "load_pipeline": "flip.diffusion.checkpoint",
    "make_head": "flip.classify.classifier",
    "open_dataset": "flip.data.open",
    "progress_bar": "flip.bars",
    "run_protocol": "flip.studies.protocol",
}


def __getattr__(name: str) -> object:
    """Import a public name when it is first used (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module 'flip' has no attribute {name!r}")
    value: object = getattr(import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
