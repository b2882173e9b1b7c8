"""Weights of the numerical cases: drawn from their own names, so that they need not be stored."""

import math
import zlib

import numpy as np
import torch


def draw(key, shape):
    """One tensor: PCG64 seeded with the key's CRC-32. Matrices have unit gain; vectors are 0.1 n, or 1 + 0.1 n if
    they are weights (biases, and scales by another name, are not)."""
    n = np.random.Generator(np.random.PCG64(zlib.crc32(key.encode()))).standard_normal(shape)
    small = 1 + 0.1 * n if key.endswith("weight") else 0.1 * n
    return torch.from_numpy((n / math.sqrt(math.prod(shape[1:])) if len(shape) > 1 else small).astype(np.float32))


def draw_all(shapes):
    """Tensors by key, from shapes by key."""
    return {key: draw(key, tuple(shape)) for key, shape in shapes.items()}
