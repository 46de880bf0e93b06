"""One training step: the loss compares all batches of all processes, the network sees one batch at a time."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import nn

from flip.clip.text_tower import encode_text
from flip.training.clip.loss import contrastive_loss, drift

if TYPE_CHECKING:
    from accelerate import Accelerator

    from flip.clip.network import ClipNetwork


class Batch(NamedTuple):
    """Pixels (b, 3, height, width) and tokens (b, context_length) of b pairs."""

    pixels: torch.Tensor
    tokens: torch.Tensor


class PairEncoder(nn.Module):
    """Both towers as one module, so that DistributedDataParallel sees one forward pass.

    Parameters
    ----------
    network : open_clip model
        The parameters that require gradients are trained.
    keep : bool
        Also return the image features of a frozen copy made now, for :func:`drift`.
    """

    def __init__(self, network: ClipNetwork, *, keep: bool = False) -> None:
        super().__init__()
        self.network, self.before = network, None
        self._entering: torch.Tensor | None = None
        if keep:
            head = trained_head(network.visual)
            self.before = copy.deepcopy(head or network.visual).requires_grad_(False)
            if head is not None:
                # What comes before the head does not change, so one pass through it serves both.
                head.register_forward_pre_hook(self._remember)

    def _remember(self, head: nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
        self._entering = arguments[0].detach()

    def forward(self, pixels: torch.Tensor, tokens: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return unit image features (b, d), unit text features (b, d), the logit scale (), and frozen features (b, d).

        The last only with ``keep``.
        """
        # Class prompts repeat within a batch; each text is encoded once.
        unique, which = torch.unique(tokens, dim=0, return_inverse=True)
        image = self.network.encode_image(pixels, normalize=True)
        text = encode_text(self.network, unique)  # (distinct texts, d)
        outputs = image.float(), text.float()[which], self.network.logit_scale.exp()
        return outputs if self.before is None else (*outputs, self._frozen_features(pixels))

    def _frozen_features(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return the unit image features from before training (b, d)."""
        assert self.before is not None
        with torch.no_grad():
            features = self.before.eval()(pixels if self._entering is None else self._entering)
        # CoCa's tower returns its pooled embedding first and its tokens second.
        features = features[0] if isinstance(features, tuple) else features
        return nn.functional.normalize(features.float(), dim=-1)


def trained_head(visual: nn.Module) -> nn.Module | None:
    """Return a tower's head where nothing else of the tower is trained, else None."""
    head = getattr(visual, "head", None)
    of_head = {id(p) for p in head.parameters()} if isinstance(head, nn.Module) else set()
    only = all(id(p) in of_head for p in visual.parameters() if p.requires_grad)
    return head if of_head and only else None


def backward_step(
    encoder: nn.Module,
    batches: Sequence[Batch],
    labels: torch.Tensor,
    accelerator: Accelerator,
    seed: int,
    keep: float = 0.0,
) -> float:
    """Add the gradients of one step to the parameters and return its loss.

    With several batches the features are computed twice (gradient caching, Gao et al., RepL4NLP 2021): first without a
    graph, for the loss and its gradient with respect to each feature, then one batch at a time, propagating its
    features' gradient into the network. Each process propagates the gradient of its own features.

    Parameters
    ----------
    encoder : module
        A prepared :class:`PairEncoder`.
    batches : sequence of Batch
        This process's, on its device; all of one size.
    labels : int tensor of shape (n,)
        Of all batches of all processes, in the order of the processes.
    seed : int
        Of dropout, the same in both passes.
    keep : float
        Weight of :func:`drift`, where the encoder returns frozen features.
    """
    once = len(batches) == 1
    outputs = []
    for i, batch in enumerate(batches):
        with contextlib.nullcontext() if once else torch.no_grad(), _seeded(seed, i, accelerator):
            outputs.append(encoder(*batch))
    loss, gradients = _loss_and_gradients(outputs, labels, accelerator, keep)
    for i, batch in enumerate(batches):
        with contextlib.nullcontext() if i == len(batches) - 1 else accelerator.no_sync(encoder):
            if not once:
                with _seeded(seed, i, accelerator):
                    outputs[i] = encoder(*batch)
            _continue_backward(outputs[i][:3], [g[i] for g in gradients])
    return loss


def _loss_and_gradients(
    outputs: Sequence[tuple[torch.Tensor, ...]], labels: torch.Tensor, accelerator: Accelerator, keep: float
) -> tuple[float, list[list[torch.Tensor]]]:
    """Return the loss over all processes, and its gradients with respect to this process's outputs, per batch.

    The gradients are those of image features (b, d), text features (b, d) and the logit scale ().
    """
    size, scale = len(outputs[0][0]), outputs[0][2].detach().float().requires_grad_()
    own = [torch.cat([output[k].detach() for output in outputs]) for k in (0, 1)]  # (this process's photos, d)
    image, text = (accelerator.gather(features).requires_grad_() for features in own)
    loss = contrastive_loss(image, text, labels, scale)
    if keep:
        loss = loss + keep * drift(image, accelerator.gather(torch.cat([output[3] for output in outputs])))
    loss.backward()  # type: ignore[no-untyped-call]
    assert image.grad is not None
    assert text.grad is not None
    assert scale.grad is not None
    start = accelerator.process_index * len(own[0])
    # DistributedDataParallel averages gradients: a feature's comes from one process only, the scale's from all.
    mine = [grad[start : start + len(own[0])] * accelerator.num_processes for grad in (image.grad, text.grad)]
    shares = [scale.grad / len(outputs)] * len(outputs)
    return float(loss.detach()), [[*mine[0].split(size)], [*mine[1].split(size)], shares]


def _continue_backward(outputs: Sequence[torch.Tensor], gradients: Sequence[torch.Tensor]) -> None:
    pairs = [
        (output, grad.to(output.dtype)) for output, grad in zip(outputs, gradients, strict=True) if output.requires_grad
    ]
    torch.autograd.backward([output for output, _ in pairs], [grad for _, grad in pairs])


@contextlib.contextmanager
def _seeded(seed: int, batch: int, accelerator: Accelerator) -> Iterator[None]:
    """Seed dropout for one forward pass, and leave the global random state as it was."""
    device = accelerator.device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed((seed * 1000 + batch) * 1000 + accelerator.process_index)
        yield
