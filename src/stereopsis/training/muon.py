"""Muon: momentum whose update of every weight matrix is made orthogonal."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


def orthogonalized(matrix: Tensor, iterations: int = 5) -> Tensor:
    """About the nearest semi-orthogonal matrix, by a quintic Newton-Schulz iteration: singular values come near 1.

    Args:
        matrix: (..., rows, columns).
        iterations: each brings small singular values up by a factor of 3.4.
    """
    x = matrix / (matrix.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    tall = x.size(-2) > x.size(-1)
    if tall:
        x = x.mT
    for _ in range(iterations):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Momentum orthogonalised by Newton-Schulz (Jordan et al., 2024), for weights of two and more dimensions.

    ``torch.optim.Muon`` takes matrices only; here a convolution's kernel is one of (out, in * height * width).
    An update's spectral norm is about ``lr * sqrt(max(1, rows / columns))``, whatever the gradient's size.

    Args:
        params: tensors of two or more dimensions.
        lr: size of an update.
        momentum: of the averaged gradient; the step looks ahead by one (Nesterov).
        weight_decay: pull towards zero, times lr.

    Raises:
        ValueError: a parameter has fewer than two dimensions.
    """

    def __init__(
        self, params: Iterable[nn.Parameter], lr: float = 0.02, momentum: float = 0.95, weight_decay: float = 0.01
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        for group in self.param_groups:
            if any(parameter.ndim < 2 for parameter in group["params"]):
                raise ValueError("Muon takes weights of two and more dimensions; give vectors to AdamW.")

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        if closure is not None:
            raise ValueError("Muon takes no closure.")
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                average = state.setdefault("momentum", torch.zeros_like(parameter))
                average.lerp_(parameter.grad, 1 - group["momentum"])
                ahead = parameter.grad.lerp(average, group["momentum"])
                matrix = ahead.reshape(len(ahead), -1).float()
                update = orthogonalized(matrix) * max(1.0, matrix.shape[0] / matrix.shape[1]) ** 0.5
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(update.view_as(parameter), alpha=-group["lr"])
