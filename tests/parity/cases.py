"""Reading the stored numerical cases, and holding results to them."""

import json
import math
from pathlib import Path

import numpy as np
import torch


def read_case(family, name="tiny"):
    """Tensors by name of tests/parity/FAMILY/NAME.npz."""
    with np.load(Path(__file__).parent / family / f"{name}.npz") as file:
        return {key: torch.from_numpy(file[key]) for key in file.files}


def read_keys(family, name="keys"):
    """A stored list of a published checkpoint's keys and shapes, and what else its file says."""
    listed = json.loads((Path(__file__).parent / family / f"{name}.json").read_text())
    assert sum(math.prod(shape) for shape in listed["keys"].values()) == listed["num_parameters"]
    return listed


def same(found, expected, atol=1e-5):
    """Assert that tensors are equal to an absolute tolerance."""
    torch.testing.assert_close(found, expected, atol=atol, rtol=0)
