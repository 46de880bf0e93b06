"""Photos that a fine-tuned model learned from, as its folder tells."""

from __future__ import annotations

from flip.clip.model import model_folder
from flip.data.dataset import Dataset
from flip.data.learned import count_learned, read_learned, require_unlearned


def learned_by(model: str) -> frozenset[str]:
    """Return the keys of the photos that a model learned from, as :func:`flip.data.learned.read_learned` does.

    Parameters
    ----------
    model : str
        As ``--model`` takes it; names of a registry have none.
    """
    folder = model_folder(model)
    return frozenset() if folder is None else read_learned(folder)


def require_unlearned_by_model(model: str, dataset: Dataset, split: str) -> None:
    """Refuse to score photos that a fine-tuned model learned from, as its folder tells.

    Parameters
    ----------
    model : str
        As ``--model`` takes it.
    dataset : Dataset
    split : str
        What is scored of it.

    Raises
    ------
    DataError
    """
    if learned := learned_by(model):
        scored = dataset.select(split)
        require_unlearned(f"the model {model}", count_learned(learned, scored.files), len(scored), split)
