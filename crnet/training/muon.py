"""Muon: momentum whose step is orthogonalised, for the kernels of a network.

A kernel (n, m, k, k) is the matrix G (n, m k²) of its gradient's momentum.  Its step is the nearest
matrix with equal singular values, U Vᵀ of G = U Σ Vᵀ, found by five Newton-Schulz iterations

    X ← a X + (b X Xᵀ + c (X Xᵀ)²) X,     X_0 = G / ‖G‖_F,

so that every direction of the kernel moves alike.  Kernels between fewer than eight maps and
vectors take Adam's step instead.  The README compares the two on CRNet-A.

References
----------
Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024.  The scale
0.2·√max(n, m k²), which gives steps of Adam's size, is of Liu et al., "Muon is scalable for LLM
training", arXiv 2502.16982, 2025.  ``torch.optim.Muon`` takes matrices only, not kernels.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import Tensor, nn

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_LEAST_MAPS = 8
_ADAM_SHARE = 1 / 3  # Adam's rate over Muon's


def orthogonalise(G: Tensor, iterations: int = 5) -> Tensor:
    """Return about U Vᵀ of the matrix G = U Σ Vᵀ: singular values between 0.7 and 1.2.

    Parameters
    ----------
    G : Tensor, shape (n, m)
        Matrix; zero stays zero.
    iterations : int
        Newton-Schulz iterations.

    Returns
    -------
    Tensor, shape (n, m)

    Examples
    --------
    >>> X = orthogonalise(torch.randn(8, 20, generator=torch.Generator().manual_seed(0)))
    >>> s = torch.linalg.svdvals(X)
    >>> bool((s > 0.6).all() and (s < 1.3).all())
    True
    """
    if G.ndim != 2:
        raise ValueError(f"G must be a matrix, got shape {tuple(G.shape)}")
    a, b, c = _COEFFICIENTS
    X: Tensor = G if G.shape[0] <= G.shape[1] else G.T
    X = X / X.norm().clamp(min=1e-30)
    for _ in range(iterations):
        A = X @ X.T
        X = a * X + (b * A + c * A @ A) @ X
    return X if G.shape[0] <= G.shape[1] else X.T


class Muon(torch.optim.Optimizer):
    """Muon for kernels and matrices, Adam for the rest.

    Parameters
    ----------
    parameters : iterable of nn.Parameter
        Weights.
    lr : float
        Rate of the orthogonalised steps; Adam's is a third of it.
    momentum : float
        Of the orthogonalised steps, Nesterov's; Adam's betas are 0.9 and 0.999.
    weight_decay : float
        Decoupled decay.
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
            for w in group["params"]:
                if w.grad is not None:
                    w.mul_(1 - group["lr"] * group["weight_decay"])
                    self._update(w, w.grad, group)
        return loss

    def _update(self, w: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[w]
        if not state:
            state["step"] = 0
            state["first"] = torch.zeros_like(w)
        state["step"] += 1
        first: Tensor = state["first"]
        if w.ndim >= 2 and min(w.shape[:2]) >= _LEAST_MAPS:
            first.mul_(group["momentum"]).add_(gradient)
            ahead = gradient.add(first, alpha=group["momentum"])
            X = orthogonalise(ahead.flatten(1)).view(w.shape)
            size = 0.2 * math.sqrt(max(len(w), w[0].numel()))
            w.add_(X, alpha=-group["lr"] * size)
            return
        second: Tensor = state.setdefault("second", torch.zeros_like(w))
        first.lerp_(gradient, 0.1)
        second.lerp_(gradient.square(), 0.001)
        mean = first / (1 - 0.9 ** state["step"])
        deviation = (second / (1 - 0.999 ** state["step"])).sqrt_().add_(1e-8)
        w.addcdiv_(mean, deviation, value=-group["lr"] * _ADAM_SHARE)
