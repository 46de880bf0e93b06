"""The projection of an image tower into the shared space, and its few-shot training on features computed once.

ProLIP (Fahes et al., 2024, arXiv 2410.05270): with features x of the frozen trunk, class embeddings T and the model's
logit scale s, the projection W (b its bias, which stays) minimises

    mean over photos of cross-entropy(s · normalize(W x + b) · Tᵀ, y) + λ g² ‖W − W₀‖²,   λ = STRENGTH / shots.

g is the mean length of x over that of W₀ x + b: the paper's λ = 1 / shots, without g, depends on the units of x, and
the lengths of other models than CLIP's differ by an order of magnitude.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.functional import cross_entropy, linear, normalize

from flip.errors import ConfigError

#: Numerator of λ. Chosen on training photos of the sample that were not drawn, at 1, 2 and 4 shots.
STRENGTH = 0.1
#: Iterations of L-BFGS at most.
ITERATIONS = 100


@dataclass(frozen=True)
class Projection:
    """The last linear map of an image tower.

    Attributes
    ----------
    owner : module
    name : str
        Of the map in its owner.
    parameter : parameter of shape (d, p), or (p, d) where ``transposed``
    bias : tensor of shape (d,) or None
    transposed : bool
    """

    owner: nn.Module
    name: str
    parameter: nn.Parameter
    bias: torch.Tensor | None
    transposed: bool = False

    @property
    def weight(self) -> torch.Tensor:
        """A copy of the map, (d, p)."""
        weight = self.parameter.detach()
        return (weight.T if self.transposed else weight).clone(memory_format=torch.contiguous_format)

    def put(self, weight: torch.Tensor) -> None:
        """Give the network another map (d, p)."""
        with torch.no_grad():
            self.parameter.copy_(weight.T if self.transposed else weight)

    def train_alone(self, network: nn.Module) -> None:
        """Let the map's weights require gradients, and nothing else of the network."""
        network.requires_grad_(False)
        self.parameter.requires_grad_()

    @contextmanager
    def left_out(self) -> Iterator[None]:
        """Let the tower return what enters the map, (n, p)."""
        before = getattr(self.owner, self.name)
        setattr(self.owner, self.name, self._nothing())
        try:
            yield
        finally:
            setattr(self.owner, self.name, before)

    def _nothing(self) -> nn.Module | None:
        if self.transposed:
            # open_clip's transformer tower asks whether there is one.
            return None
        if isinstance(self.owner, nn.Sequential):
            return nn.Identity()
        # Attention pooling hands the weights to a function, so that the map has to be one that changes nothing.
        width, like = self.parameter.shape[1], self.parameter
        nothing = nn.Linear(width, width).to(like.device)
        nn.init.eye_(nothing.weight)
        nn.init.zeros_(nothing.bias)
        return nothing.requires_grad_(False)


def find_projection(visual: nn.Module, model: str) -> Projection:
    """Return the projection of an image tower: of open_clip's transformers and ResNets, and of timm's networks.

    Raises
    ------
    ConfigError
        If the tower does not end in a linear map of its own.
    """
    parameter = getattr(visual, "proj", None)
    if isinstance(parameter, nn.Parameter):
        return Projection(visual, "proj", parameter, None, transposed=True)
    head, pool = getattr(visual, "head", None), getattr(visual, "attnpool", None)
    if isinstance(head, nn.Sequential) and len(head) and isinstance(last := head[-1], nn.Linear):
        name = list(head.named_children())[-1][0]
        return Projection(head, name, last.get_parameter("weight"), last.bias)
    pooled = getattr(pool, "c_proj", None)
    if isinstance(pool, nn.Module) and isinstance(pooled, nn.Linear):
        return Projection(pool, "c_proj", pooled.get_parameter("weight"), pooled.bias)
    raise ConfigError(
        f"--train projection with --shots: the image tower of {model} ends in no linear map of its own; leave out "
        "--train, which trains low-rank additions"
    )


def relative_length(start: torch.Tensor, bias: torch.Tensor | None, entering: torch.Tensor) -> float:
    """Return g: the mean length of features (n, p) over the mean length of what the projection makes of them."""
    leaving = linear(entering, start, bias)  # (n, d)
    return float(entering.norm(dim=1).mean() / leaving.norm(dim=1).mean())


class Problem(NamedTuple):
    """The photos, the classes and the map that a projection is fitted from.

    Attributes
    ----------
    start : float tensor of shape (d, p)
        W₀.
    bias : float tensor of shape (d,) or None
    entering : float tensor of shape (n, p)
        Features of the trunk.
    targets : int tensor of shape (n,)
    shares : float tensor of shape (n,)
        Weights of the photos that sum to 1; all 1/n for the plain mean.
    class_embeddings : float tensor of shape (c, d)
        Unit rows.
    scale : float
        Of the logits.
    strength : float
        Factor of the squared distance from W₀: λ g² in :func:`projection_loss`, λ in :func:`fit_projection`.
    """

    start: torch.Tensor
    bias: torch.Tensor | None
    entering: torch.Tensor
    targets: torch.Tensor
    shares: torch.Tensor
    class_embeddings: torch.Tensor
    scale: float
    strength: float


def projection_loss(weight: torch.Tensor, problem: Problem) -> torch.Tensor:
    """Return the objective of this module at a projection W (d, p), with a weight for each photo."""
    image = normalize(linear(problem.entering, weight, problem.bias), dim=-1)
    logits = problem.scale * image @ problem.class_embeddings.T
    losses = cross_entropy(logits, problem.targets, reduction="none")
    return (problem.shares * losses).sum() + problem.strength * (weight - problem.start).square().sum()


def fit_projection(problem: Problem, iterations: int = ITERATIONS) -> tuple[torch.Tensor, float]:
    """Return the projection (d, p) that minimises :func:`projection_loss`, from W₀ on, and its loss.

    Features are first brought to the length of what the projection makes of them, which g² in the loss amounts to, and
    which makes the fit fast.
    """
    length = relative_length(problem.start, problem.bias, problem.entering)
    problem = problem._replace(start=problem.start * length, entering=problem.entering / length)
    weight = problem.start.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([weight], max_iter=iterations, history_size=10, line_search_fn="strong_wolfe")

    def closure() -> float:
        optimizer.zero_grad()
        value = projection_loss(weight, problem)
        value.backward()  # type: ignore[no-untyped-call]
        return float(value.detach())

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        return weight.detach() / length, float(projection_loss(weight, problem))
