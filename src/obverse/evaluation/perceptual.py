"""LPIPS, the learned distance between pictures (Zhang et al. 2018, arXiv 1801.03924), version 0.1, in plain torch.

Features of a classifier after five of its ReLUs, each pixel's normalised to length 1; squared differences, weighted
per channel by a published head, averaged over the picture and added up. Nothing is downloaded. Two files are needed:
the classifier's as torchvision publishes it, and the head's as the ``lpips`` package does.

The tests hold both networks, with random weights in the published layout, against the formula written out step by
step. Not verified: that the ``lpips`` package gives the same number with the published weights.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from ..errors import InputError, WeightsError
from ..weights import load_strict, read_checkpoint

Net = Literal["alex", "vgg"]
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # of inputs in −1 to 1 (lpips 0.1, ScalingLayer)
LEAST = 32  # pixels a side; below, the last features of AlexNet are empty

# Layers of torchvision's ``features``: (channels in, out, kernel, stride, padding), or (kernel, stride) of a max-pool.
ALEXNET = ((3, 64, 11, 4, 2), (3, 2), (64, 192, 5, 1, 2), (3, 2), (192, 384, 3, 1, 1), (384, 256, 3, 1, 1),
           (256, 256, 3, 1, 1))  # fmt: skip
VGG16 = ((3, 64, 3, 1, 1), (64, 64, 3, 1, 1), (2, 2), (64, 128, 3, 1, 1), (128, 128, 3, 1, 1), (2, 2),
         (128, 256, 3, 1, 1), (256, 256, 3, 1, 1), (256, 256, 3, 1, 1), (2, 2), (256, 512, 3, 1, 1),
         (512, 512, 3, 1, 1), (512, 512, 3, 1, 1), (2, 2), (512, 512, 3, 1, 1), (512, 512, 3, 1, 1),
         (512, 512, 3, 1, 1))  # fmt: skip
LAYERS = {"alex": ALEXNET, "vgg": VGG16}
TAPS = {"alex": (1, 4, 7, 9, 11), "vgg": (3, 8, 15, 22, 29)}  # positions in ``features`` of the ReLUs compared
CHANNELS = {"alex": (64, 192, 384, 256, 256), "vgg": (64, 128, 256, 512, 512)}  # there

# File names as published: torchvision's classifier (its hash is part of the name), and the head.
BACKBONES = {"alex": ("alexnet-owt-7be5be79.pth", "alexnet-owt-4df8aa71.pth"), "vgg": ("vgg16-397923af.pth",)}
HEADS = {"alex": ("alex.pth",), "vgg": ("vgg.pth",)}


def lpips(a: Tensor, b: Tensor, *, weights: str | Path | None = None, net: Net = "alex") -> Tensor:
    """LPIPS distance of images [..., H, W, 3] in 0–1 → [...]; 0 for equal images, lower is nearer.

    Args:
        a: images of at least 32 pixels a side, composited over the background that is to be quoted.
        b: images of the same shape.
        weights: folder with both files under their published names (``BACKBONES``, ``HEADS``). By default the
            classifier is looked for in torch's hub folder and the head in an installed ``lpips`` package, or beside it.
        net: ``"alex"`` is what most tables quote, ``"vgg"`` what some do; the numbers are not comparable.

    Raises:
        WeightsError: not measured, because the weights are not local, or a file is of another layout.
        InputError: the images differ in shape or are too small.
    """
    if a.shape != b.shape or a.ndim < 3 or a.shape[-1] != 3 or min(a.shape[-3:-1]) < LEAST:
        raise InputError(
            f"LPIPS compares images of one shape [..., H, W, 3] of at least {LEAST} pixels a side, got "
            f"{list(a.shape)} and {list(b.shape)}; composite and resize them"
        )
    found = _find(weights, net)
    if found is None:
        raise WeightsError(
            f"LPIPS not measured: weights not local; put {BACKBONES[net][0]} (of torchvision) and {HEADS[net][0]} (of "
            "the lpips package, weights/v0.1) into one folder and pass weights=FOLDER"
        )
    network = _load(net, *found).to(a.device)
    size = a.shape[-3:]
    first, second = (t.float().reshape(-1, *size).movedim(-1, 1) for t in (a, b))
    with torch.no_grad():
        each = [network(x[None], y[None]) for x, y in zip(first, second, strict=True)]  # one at a time bounds memory
    return torch.cat(each).reshape(a.shape[:-3]) if each else a.new_zeros(a.shape[:-3])


def lpips_available(weights: str | Path | None = None, *, net: Net = "alex") -> bool:
    """Whether ``lpips`` finds both files on this machine; they are not read."""
    return _find(weights, net) is not None


class Lpips(nn.Module):
    """The classifier's layers up to the last one compared, and the heads."""

    def __init__(self, net: Net) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for layer in LAYERS[net]:
            if len(layer) == 2:
                layers.append(nn.MaxPool2d(*layer))
            else:
                channels_in, channels_out, kernel, stride, padding = layer
                layers += [nn.Conv2d(channels_in, channels_out, kernel, stride, padding), nn.ReLU()]
        self.features = nn.Sequential(*layers)
        self.heads = nn.ModuleList(nn.Conv2d(channels, 1, 1, bias=False) for channels in CHANNELS[net])
        self.taps = TAPS[net]

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Images [B, 3, H, W] in 0–1 → distances [B]."""
        shift, scale = (torch.tensor(v).to(a)[:, None, None] for v in (SHIFT, SCALE))
        both = (torch.cat([2 * a - 1, 2 * b - 1]) - shift) / scale
        total = torch.zeros(len(a)).to(a)
        heads = iter(self.heads)
        for position, layer in enumerate(self.features):
            both = layer(both)
            if position in self.taps:
                unit = both / (both.square().sum(1, keepdim=True).sqrt() + 1e-10)
                mine, theirs = unit.chunk(2)
                total = total + next(heads)((mine - theirs).square()).mean((1, 2, 3))
        return total


@functools.lru_cache(maxsize=2)
def _load(net: Net, backbone: Path, head: Path) -> Lpips:
    """The network with published weights: every key and shape, or WeightsError."""
    with torch.device("meta"):
        network = Lpips(net)
    layers = {k: t for k, t in read_checkpoint(backbone).tensors.items() if not k.startswith("classifier.")}
    load_strict(network.features, layers, source=backbone, published=lambda key: f"features.{key}")
    heads: Mapping[str, Tensor] = read_checkpoint(head).tensors
    load_strict(network.heads, heads, source=head, published=_head_key)
    network.requires_grad_(False).eval()
    return network


def _head_key(key: str) -> str:
    """``0.weight`` → ``lin0.model.1.weight``: a dropout stands first in the published head."""
    return f"lin{key.partition('.')[0]}.model.1.weight"


def _find(weights: str | Path | None, net: Net) -> tuple[Path, Path] | None:
    """Paths of the classifier and the head, or None."""
    if net not in LAYERS:
        raise InputError(f"LPIPS with {net!r} is not known; choose 'alex' or 'vgg'")
    if weights is not None:
        folders = [Path(weights).expanduser()]
    else:
        folders = [Path(torch.hub.get_dir()) / "checkpoints"]
        package = importlib.util.find_spec("lpips")
        for place in (package.submodule_search_locations or []) if package else []:
            folders.append(Path(place) / "weights" / "v0.1")
    pairs = []
    for names in (BACKBONES[net], HEADS[net]):
        there = [folder / name for folder in folders for name in names if (folder / name).is_file()]
        if not there:
            return None
        pairs.append(there[0])
    return pairs[0], pairs[1]
