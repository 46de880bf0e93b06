"""The contrastive loss of a batch in which photos of one class are positives of each other."""

from __future__ import annotations

import torch
from torch.nn.functional import cross_entropy


def contrastive_loss(
    image_features: torch.Tensor, text_features: torch.Tensor, labels: torch.Tensor, logit_scale: torch.Tensor
) -> torch.Tensor:
    """Return CLIP's symmetric loss with every pair of one class as a positive.

    Cross-entropy of each photo against the texts, and of each text against the photos, where the target is uniform
    over all that share its label (UniCL: Yang et al., CVPR 2022, equations 1 to 3). With n different labels it is the
    loss of CLIP (Radford et al., ICML 2021, figure 3).

    Parameters
    ----------
    image_features, text_features : float tensors of shape (n, d)
        Unit rows; row i of both belongs together.
    labels : int tensor of shape (n,)
    logit_scale : float tensor of shape ()
        The factor between cosines and logits.

    Returns
    -------
    float tensor of shape ()
    """
    logits = logit_scale * image_features @ text_features.T
    positives = (labels[:, None] == labels[None, :]).to(logits.dtype)
    targets = positives / positives.sum(dim=1, keepdim=True)
    return (cross_entropy(logits, targets) + cross_entropy(logits.T, targets)) / 2


def drift(features: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """LDIFS: mean squared distance of features from those of the same photos before training.

    Adding it to the loss reduces forgetting of classes that are not trained on (Mukhoti et al., TMLR 2024; here of the
    last features alone).

    Parameters
    ----------
    features, known : float tensors of shape (n, d)
        Unit rows.

    Returns
    -------
    float tensor of shape ()
    """
    return (features - known).square().sum(dim=1).mean()
