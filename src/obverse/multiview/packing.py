"""Weights in the order that the processor's matrix instructions read them in, for networks that are asked many times.

Torch keeps weights in their ordinary order and sorts them anew in every call. For a UNet of hundreds of millions of
weights and small pictures that is most of a call. Within ``packed`` it is done once, at a layer's first call:

    with packed(unet):
        for step in steps:
            unet(...)

The sorted copy takes as much memory again as the weights it was made of, until the block ends. Convolutions answer in
channels-last order, so that is what activations are in. The backward pass has no such convolution: where gradients are
asked for, under autocast, and on other devices, layers compute as ever. So they do in float32: torch's group norm in
channels-last order subtracts large squares there, at 200 times the error, and with activations put back into ordinary
order after each convolution, sorted weights made a step 7 % and decoding 45 % slower.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

NAMES = (
    "_reorder_convolution_weight", "_convolution_pointwise", "_reorder_linear_weight", "_linear_pointwise",
    "_is_mkldnn_bf16_supported",
)  # fmt: skip
FEWEST = 6  # calls that pay for sorting: it takes a second where it then spares a quarter of one in every call
Layer = Callable[[Tensor], Tensor]


@contextmanager
def packed(*networks: nn.Module, calls: int = FEWEST) -> Iterator[None]:
    """While inside, convolutions and linear layers in bfloat16 on a CPU use sorted weights.

    Weights must not change inside. Blocks may be nested; layers are released by the one that packed them. Results
    differ from the ordinary ones by the order in which products are added up.

    Args:
        networks: to be asked.
        calls: of each of them; if they are too few to pay for the sorting, layers compute as ever.
    """
    if calls < FEWEST:
        yield
        return
    kept = [(layer, made) for network in networks for layer in network.modules() if (made := _quick(layer)) is not None]
    for layer, made in kept:
        layer.forward = made  # hooks stay, they are called around it
    try:
        yield
    finally:
        for layer, _ in kept:
            del layer.forward


def _quick(layer: nn.Module) -> Layer | None:
    """The layer's quicker way to compute, or None if there is none or it has one already."""
    if type(layer) not in (nn.Conv2d, nn.Linear) or "forward" in vars(layer):
        return None
    weight: Any = layer.weight
    if weight.device.type != "cpu" or weight.dtype != torch.bfloat16 or not possible():
        return None
    if isinstance(layer, nn.Conv2d):
        sorted_in = layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
        return _convolution(layer) if sorted_in else None
    return _linear(layer) if isinstance(layer, nn.Linear) else None


def possible() -> bool:
    """Whether this torch and this processor have what is needed; the operations are those torch.compile uses."""
    known = torch.ops.mkldnn
    tried = platform.machine() in ("x86_64", "AMD64")  # other processors' layouts were not
    if not tried or not torch.backends.mkldnn.is_available() or not all(hasattr(known, name) for name in NAMES):
        return False
    return bool(known._is_mkldnn_bf16_supported())


def _usual(x: Tensor, weight: Tensor) -> bool:
    """Whether an input must take the ordinary way."""
    return (
        torch.is_grad_enabled()
        or torch.is_autocast_enabled("cpu")
        or torch.compiler.is_compiling()
        or x.dtype != weight.dtype
        or x.device != weight.device
    )


def _convolution(layer: nn.Conv2d) -> Layer:
    ordinary, known, held = layer.forward, torch.ops.mkldnn, list[Tensor]()
    how = list(layer.padding), list(layer.stride), list(layer.dilation), layer.groups

    def forward(x: Tensor) -> Tensor:
        if x.ndim != 4 or _usual(x, layer.weight):
            return ordinary(x)
        if not held:
            held.append(known._reorder_convolution_weight(layer.weight, *how, list(x.shape)))
        found: Tensor = known._convolution_pointwise(x, held[0], layer.bias, *how, "none", [], "")
        return found

    return forward


def _linear(layer: nn.Linear) -> Layer:
    ordinary, known, held = layer.forward, torch.ops.mkldnn, list[Tensor]()

    def forward(x: Tensor) -> Tensor:
        if _usual(x, layer.weight):
            return ordinary(x)
        if not held:
            held.append(known._reorder_linear_weight(layer.weight, x.numel() // x.shape[-1]))
        found: Tensor = known._linear_pointwise(x, held[0], layer.bias, "none", [], "")
        return found

    return forward
