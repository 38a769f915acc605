"""Muon: momentum whose step is orthogonalised, for the kernels of a network.

A kernel (n, m, k, k) is the matrix G (n, m k²) of its gradient's momentum.  Its step is the nearest
matrix with equal singular values, U Vᵀ of G = U Σ Vᵀ, found by five Newton-Schulz iterations

    X ← a X + (b X Xᵀ + c (X Xᵀ)²) X,     X_0 = G / ‖G‖_F,

so that every direction of the kernel moves alike.  Vectors, and kernels with fewer than eight input
or output maps, take Adam's step.  No step waits for the device, and kernels of one shape are
orthogonalised together.

References
----------
Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024.  The scale
0.2·√max(n, m k²), which gives steps of Adam's size, is from Liu et al., "Muon is scalable for LLM
training", arXiv 2502.16982, 2025.  ``torch.optim.Muon`` takes matrices only, not kernels.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, overload

import torch
from torch import Tensor, nn

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_LEAST_MAPS = 8
_ADAM_RATE = 1 / 3  # Adam's rate over Muon's


def orthogonalise(G: Tensor, iterations: int = 5) -> Tensor:
    """Return approximately U Vᵀ of each matrix G = U Σ Vᵀ.

    A singular value σ ≥ ‖G‖_F / 500 ends between 0.6 and 1.3.  A smaller one ends near 480 σ/‖G‖_F.

    Parameters
    ----------
    G : Tensor, shape (..., n, m)
        Matrices; zero stays zero.
    iterations : int
        Newton-Schulz iterations.

    Returns
    -------
    Tensor, shape (..., n, m)

    Raises
    ------
    ValueError
        If G has fewer than two axes.

    Examples
    --------
    >>> X = orthogonalise(torch.randn(8, 20, generator=torch.Generator().manual_seed(0)))
    >>> s = torch.linalg.svdvals(X)
    >>> bool((s > 0.6).all() and (s < 1.3).all())
    True
    """
    if G.ndim < 2:
        raise ValueError(f"G must be a matrix, got shape {tuple(G.shape)}")
    a, b, c = _COEFFICIENTS
    wide = G.shape[-2] <= G.shape[-1]
    X: Tensor = G if wide else G.mT
    X = X / torch.linalg.matrix_norm(X, keepdim=True).clamp(min=1e-30)
    for _ in range(iterations):
        A = X @ X.mT
        X = a * X + (b * A + c * A @ A) @ X
    return X if wide else X.mT


class Muon(torch.optim.Optimizer):
    """Muon for kernels and matrices, Adam for the rest.

    Parameters
    ----------
    parameters : iterable of nn.Parameter
        Weights.
    lr : float
        Rate of the orthogonalised steps; Adam's is a third of it.
    momentum : float
        Nesterov momentum of the orthogonalised steps; Adam's betas are 0.9 and 0.999.
    weight_decay : float
        Decoupled decay.

    Raises
    ------
    ValueError
        If the rate or the decay is negative, or the momentum is not in [0, 1).
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
    ) -> None:
        if not lr >= 0 or not 0 <= momentum < 1 or not weight_decay >= 0:
            raise ValueError(
                f"lr and weight_decay must be ≥ 0 and momentum in [0, 1), "
                f"got {lr}, {weight_decay} and {momentum}"
            )
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__(parameters, defaults)

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Update the weights once; `closure` computes the loss and its gradients."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            moved = [w for w in group["params"] if w.grad is not None]
            kernels = [w for w in moved if w.ndim >= 2 and min(w.shape[:2]) >= _LEAST_MAPS]
            rest = [w for w in moved if w.ndim < 2 or min(w.shape[:2]) < _LEAST_MAPS]
            if moved and group["weight_decay"]:
                torch._foreach_mul_(moved, 1 - group["lr"] * group["weight_decay"])
            for w in moved:
                self._count(w)
            if kernels:
                self._muon(kernels, group["lr"], group["momentum"])
            if rest:
                self._adam(rest, group["lr"] * _ADAM_RATE)
        return loss

    def _count(self, w: Tensor) -> None:
        state = self.state[w]
        if not state:
            state["step"], state["first"] = 0, torch.zeros_like(w)
        state["step"] += 1

    def _muon(self, kernels: Sequence[Tensor], lr: float, momentum: float) -> None:
        """Take the orthogonalised step of kernels; kernels of one shape go together."""
        gradients = [_gradient(w) for w in kernels]
        first = [self.state[w]["first"] for w in kernels]
        torch._foreach_mul_(first, momentum)
        torch._foreach_add_(first, gradients)
        ahead = torch._foreach_add(gradients, first, alpha=momentum)
        shapes: dict[tuple[int, ...], list[tuple[Tensor, Tensor]]] = {}
        for w, G in zip(kernels, ahead, strict=True):
            matrix = G.flatten(1)  # (n, m k²)
            shapes.setdefault(tuple(matrix.shape), []).append((w, matrix))
        for (n, m), pairs in shapes.items():
            X = orthogonalise(torch.stack([matrix for _, matrix in pairs]))
            steps = [x.view(w.shape) for x, (w, _) in zip(X, pairs, strict=True)]
            size = 0.2 * math.sqrt(max(n, m))
            torch._foreach_add_([w for w, _ in pairs], steps, alpha=-lr * size)

    def _adam(self, weights: Sequence[Tensor], lr: float) -> None:
        """Take Adam's step of the other weights."""
        gradients = [_gradient(w) for w in weights]
        states: list[dict[str, Any]] = [self.state[w] for w in weights]
        first = [state["first"] for state in states]
        second = [state.setdefault("second", torch.zeros_like(state["first"])) for state in states]
        torch._foreach_lerp_(first, gradients, 0.1)
        torch._foreach_lerp_(second, torch._foreach_mul(gradients, gradients), 0.001)
        mean = torch._foreach_div(first, [1 - 0.9 ** state["step"] for state in states])
        deviation = torch._foreach_div(second, [1 - 0.999 ** state["step"] for state in states])
        torch._foreach_sqrt_(deviation)
        torch._foreach_add_(deviation, 1e-8)
        torch._foreach_addcdiv_(list(weights), mean, deviation, value=-lr)


def _gradient(w: Tensor) -> Tensor:
    assert w.grad is not None  # noqa: S101  step() takes only those
    return w.grad
