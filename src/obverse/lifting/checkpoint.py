"""The state of a fit on disk, so that an interrupted one goes on where it stopped."""

from __future__ import annotations

import io
import json
import pickle
from pathlib import Path
from typing import Any

import torch

from ..errors import InputError
from ..formats.files import atomic_write, read_bytes


def save_state(path: str | Path, state: dict[str, Any], contract: dict[str, Any]) -> Path:
    """Write tensors, numbers and lists, and the contract they belong to, all or nothing.

    Raises:
        OutputError: the file cannot be written.
    """
    buffer = io.BytesIO()
    torch.save({"state": state, "contract": json.dumps(contract, sort_keys=True)}, buffer)
    return atomic_write(path, buffer.getvalue())


def load_state(path: str | Path, contract: dict[str, Any]) -> dict[str, Any]:
    """Read what ``save_state`` wrote.

    Raises:
        InputError: the file is damaged, or belongs to a fit with other options.
    """
    try:
        content = torch.load(io.BytesIO(read_bytes(path)), weights_only=True)
        state, theirs = content["state"], json.loads(content["contract"])
    except (RuntimeError, pickle.UnpicklingError, KeyError, TypeError, ValueError, EOFError) as error:
        raise InputError(f"{path} is not a checkpoint of a fit ({error}); delete it to begin anew") from error
    ours = json.loads(json.dumps(contract))
    different = sorted(key for key in {*ours, *theirs} if ours.get(key) != theirs.get(key))
    if different:
        raise InputError(
            f"{path} belongs to a fit with other {', '.join(different)}; use the same options to go on, or another "
            "checkpoint file to begin anew"
        )
    return state
