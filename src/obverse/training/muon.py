"""Muon: momentum whose matrices are made orthogonal before they are taken as steps (Jordan et al. 2024).

Every singular direction of a gradient then moves its weights equally far. For the matrices inside a network, where it
learns in fewer steps than AdamW; biases, norms, embeddings and the first and last layer stay with AdamW.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

QUINTIC = (3.4445, -4.7750, 2.0315)  # Newton–Schulz coefficients of the paper's reference, section "Newton-Schulz"
ITERATIONS = 5


class Muon(torch.optim.Optimizer):
    """SGD with Nesterov momentum and orthogonal steps, for tensors of two axes or more (convolutions as matrices).

    Args:
        params: weights [out, in, ...].
        lr: step; a matrix moves by this much in root-mean-square, times 0.2, as AdamW's would (Liu et al. 2025).
        momentum: share of the running sum that a step keeps.
        weight_decay: decoupled, times ``lr``.
    """

    def __init__(
        self, params: Iterable[nn.Parameter], *, lr: float, momentum: float = 0.95, weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Take one step with the gradients there are."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["momentum"] = torch.zeros_like(parameter)
                state["momentum"].mul_(group["momentum"]).add_(parameter.grad)
                ahead = parameter.grad.add(state["momentum"], alpha=group["momentum"])
                matrix = orthogonal(ahead.flatten(1))
                size = 0.2 * max(matrix.shape) ** 0.5
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(matrix.view_as(parameter), alpha=-group["lr"] * size)


def orthogonal(matrix: Tensor) -> Tensor:
    """The nearest semi-orthogonal matrix [M, N], to within about 0.3 in each singular value; in bfloat16."""
    a, b, c = QUINTIC
    x = matrix.bfloat16()
    wide = x.shape[0] <= x.shape[1]
    x = x if wide else x.T
    x = x / (x.norm() + 1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x if wide else x.T).to(matrix)
