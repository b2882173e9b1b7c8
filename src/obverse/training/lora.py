"""Low-rank adapters (Hu et al. 2021, "LoRA"): train a few matrices beside a frozen network, then add them to it."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..errors import UsageError

TARGETS = ("to_q", "to_k", "to_v", "to_out.0")  # of attention, as usual for diffusion models


class Adapted(nn.Module):
    """A linear layer and its adapter: W x + up(down(x)); ``up`` starts at zero, so nothing changes at first."""

    def __init__(self, base: nn.Linear, rank: int) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        like = {"device": base.weight.device, "dtype": base.weight.dtype}
        self.down = nn.Linear(base.in_features, rank, bias=False, **like)
        self.up = nn.Linear(rank, base.out_features, bias=False, **like)
        nn.init.normal_(self.down.weight, std=1 / math.sqrt(base.in_features))
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] → [..., out]."""
        return self.base(x) + self.up(self.down(x))


def adapt(network: nn.Module, *, rank: int, seed: int = 0) -> nn.ModuleDict:
    """Put adapters on a network's attention → the adapters alone, to be trained and kept; the rest is frozen.

    Args:
        network: changed in place.
        rank: of the adapters.
        seed: of their first weights.

    Raises:
        UsageError: the rank is below 1, or there is no attention.
    """
    if rank < 1:
        raise UsageError(f"the rank of the adapters is {rank}, it must be at least 1; 16 is usual")
    network.requires_grad_(False)
    found = [
        name for name, module in network.named_modules() if isinstance(module, nn.Linear) and name.endswith(TARGETS)
    ]
    if not found:
        raise UsageError(f"{type(network).__name__} has no attention to adapt; train it in full")
    adapters = nn.ModuleDict()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for name in found:
            parent, _, leaf = name.rpartition(".")
            owner = network.get_submodule(parent)
            adapted = Adapted(network.get_submodule(name), rank)  # type: ignore[arg-type]
            setattr(owner, leaf, adapted)
            adapters[name.replace(".", "-")] = nn.ModuleDict({"down": adapted.down, "up": adapted.up})
    return adapters.requires_grad_(True)


@torch.no_grad()
def merge(network: nn.Module) -> nn.Module:
    """Add the adapters to the weights they stand beside and remove them; the network is again what it was built as."""
    for name, module in list(network.named_modules()):
        if isinstance(module, Adapted):
            parent, _, leaf = name.rpartition(".")
            module.base.weight += module.up.weight @ module.down.weight
            setattr(network.get_submodule(parent), leaf, module.base)
    return network
