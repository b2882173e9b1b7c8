"""Training of the embedded model: prepared photographs, batches, loss and validation (``feedforward/embedded.py``)."""

from __future__ import annotations

import shutil
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import trimesh
from torch import Tensor, nn
from torch.nn import functional as f

from ..errors import InputError
from ..feedforward.embedded import network_input
from ..formats.files import atomic_path, writing
from .augment import OFTEN, recolouring, reshaped
from .loop import Batch, Losses
from .renders import photographs, study

FIELDS = ("rgba", "occupancy", "points", "colors", "elevation_deg")


def prepare(mesh: Callable[[], trimesh.Trimesh], name: str, folder: str | Path, *, views: int) -> Path:
    """Photograph one object into ``folder/name.npz``, unless it is there already with as many views.

    Args:
        mesh: gives the normalised object.
        name: identifier; decides the views.
        folder: where.
        views: photographs to take.

    Raises:
        InputError: the object cannot be learnt from. OutputError: the file cannot be written.
    """
    path = Path(folder) / f"{name}.npz"
    if _taken(path) == views:
        return path
    seed = zlib.crc32(name.encode())
    samples = photographs(study(mesh(), seed=seed), count=views, seed=seed)
    with atomic_path(path) as hidden, writing(path), hidden.open("wb") as file:
        np.savez(file, **{field: getattr(samples, field) for field in FIELDS})
    return path


def _taken(path: Path) -> int:
    """Photographs in a prepared file; 0 where there is none that can be read."""
    try:
        with np.load(path) as stored:
            return len(stored["elevation_deg"])
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile):
        return 0


@dataclass(frozen=True)
class Collection:
    """Prepared photographs in memory, or mapped into it."""

    arrays: dict[str, np.ndarray]  # each [N, ...]
    starts: np.ndarray  # int [O + 1]: object i owns rows starts[i] to starts[i + 1]
    shares: np.ndarray  # float [O]: how often object i is drawn; sums to 1

    def __len__(self) -> int:
        return len(self.arrays["rgba"])


def collect(paths: Sequence[Path], weights: Sequence[float], *, shared: str | Path | None = None) -> Collection:
    """Read prepared files, each drawn in proportion to its weight.

    Args:
        paths: of the files, O.
        weights: [O].
        shared: folder for the arrays, which are then mapped from files, so that the processes of a machine hold them
            once; the first writes them, and those that come after it was done find them. None: in own memory.

    Raises:
        InputError: there is none. OutputError: the folder cannot be written to.
    """
    if not paths:
        raise InputError("no prepared photographs were found; prepare some objects first")
    starts = np.zeros(len(paths) + 1, np.int64)
    for number, path in enumerate(paths):
        with np.load(path) as stored:
            starts[number + 1] = starts[number] + len(stored["elevation_deg"])
    if shared is None:
        arrays = _joined(paths, starts, lambda _, shape, kind: np.empty(shape, kind))
    else:
        arrays = _mapped(paths, starts, Path(shared))
    shares = np.asarray(weights, np.float64)
    return Collection(arrays, starts, shares / shares.sum())


def _joined(
    paths: Sequence[Path], starts: np.ndarray, room: Callable[[str, tuple[int, ...], np.dtype], np.ndarray]
) -> dict[str, np.ndarray]:
    """The fields of all files, one file after the other, in arrays that ``room(field, shape, dtype)`` gives."""
    arrays: dict[str, np.ndarray] = {}
    for number, path in enumerate(paths):  # into place at once: lists and their sum would need twice the memory
        with np.load(path) as stored:
            for field in FIELDS:
                part = stored[field]
                if not number:
                    arrays[field] = room(field, (int(starts[-1]), *part.shape[1:]), part.dtype)
                arrays[field][starts[number] : starts[number + 1]] = part
    return arrays


def _mapped(paths: Sequence[Path], starts: np.ndarray, folder: Path) -> dict[str, np.ndarray]:
    """The fields of all files, mapped from a folder; written there unless it holds them, and complete or not at all."""
    mark = folder / "starts.npy"
    if not (mark.is_file() and np.array_equal(np.load(mark), starts)):
        begun = folder.with_name(folder.name + ".partial")
        with writing(folder):
            for old in (begun, folder):
                shutil.rmtree(old, ignore_errors=True)
            begun.mkdir(parents=True)
            joined = _joined(
                paths, starts,
                lambda field, shape, kind: np.lib.format.open_memmap(begun / f"{field}.npy", "w+", kind, shape),
            )  # fmt: skip
            del joined  # written and closed
            np.save(begun / mark.name, starts)
            begun.rename(folder)
    return {field: np.load(folder / f"{field}.npy", mmap_mode="r") for field in FIELDS}


def batches(collection: Collection, *, size: int, seed: int) -> Callable[[int], Batch]:
    """Step → a batch of ``size`` photographs, each mirrored or not, with jittered colours; decided by the seed.

    Tensors are those of ``gather``, [size, ...].
    """

    def batch(step: int) -> Batch:
        rng = np.random.default_rng([seed, step])
        objects = rng.choice(len(collection.shares), size=size, p=collection.shares)
        rows = rng.integers(collection.starts[objects], collection.starts[objects + 1])
        return gather(collection, rows, rng)

    return batch


def gather(collection: Collection, rows: np.ndarray, rng: np.random.Generator | None) -> Batch:
    """Rows [B] of a collection as tensors; mirrored, recoloured and reshaped at random if ``rng`` is given.

    Returns:
        ``photo`` [B, INPUTS, P, P], ``occupancy`` [B, D, C, C] uint8 of 0 and 1 from near to far, ``points`` [B, N, 3]
        in the frustum and their ``colors`` [B, N, 3] in 0–1, and ``elevation_deg`` [B], NaN where there is none.
    """
    arrays = {field: collection.arrays[field][rows] for field in FIELDS}
    rgba = arrays["rgba"].astype(np.float32) / 255
    colors = arrays["colors"].astype(np.float32) / 255
    points = arrays["points"].astype(np.float32)
    cells = np.unpackbits(arrays["occupancy"], axis=-1, bitorder="little")
    if rng is not None:
        mirrored = rng.random(len(rows)) < 0.5
        rgba[mirrored] = rgba[mirrored, :, ::-1]
        cells[mirrored] = cells[mirrored, :, ::-1]
        points[mirrored, :, 0] *= -1
        for i in range(len(rows)):
            if rng.random() < OFTEN:
                rgba[i], cells[i], points[i] = reshaped(rgba[i], cells[i], points[i], rng)
            gain, power, mix = recolouring(rng)
            rgba[i, ..., :3] = np.clip(rgba[i, ..., :3] @ mix, 0, 1) ** power * gain
            colors[i] = np.clip(colors[i] @ mix, 0, 1) ** power * gain
    photos = np.stack([network_input(np.clip(image, 0, 1)) for image in rgba])
    return {
        "photo": torch.from_numpy(photos),
        "occupancy": torch.from_numpy(np.ascontiguousarray(cells.transpose(0, 3, 1, 2))),
        "points": torch.from_numpy(points),
        "colors": torch.from_numpy(np.clip(colors, 0, 1)),
        "elevation_deg": torch.from_numpy(arrays["elevation_deg"]),
    }


def loss(network: nn.Module, batch: Batch) -> Losses:
    """Cross-entropy and Dice (Milletari et al. 2016) of the cells [B, D, C, C] inside the outline, colours, elevation.

    Dice is taken over each photograph, and again over each column: there a leg counts as much as a body, and a guess
    smeared over many depths costs more than one that commits itself.
    """
    predicted = network(batch["photo"])
    cells, dice, columns = _solid_losses(predicted.occupancy, batch["occupancy"])
    color = (sample_colors(predicted.colors.float(), batch["points"]) - batch["colors"]).abs().mean()
    known = batch["elevation_deg"].isfinite()
    wrong = predicted.elevation - batch["elevation_deg"].nan_to_num()
    tilt = (
        f.smooth_l1_loss(wrong / 10, torch.zeros_like(wrong), reduction="none") * known
    ).sum() / known.sum().clamp_min(1)
    total = cells + 0.5 * dice + 0.25 * columns + 0.7 * color + 0.1 * tilt
    return {
        "loss": total,
        "cells": cells.detach(),
        "dice": dice.detach(),
        "columns": columns.detach(),
        "color": color.detach(),
        "tilt": tilt.detach(),
    }


def _solid_losses(logits: Tensor, occupancy: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Logits and truth [B, D, H, W] → cross-entropy and Dice, means over photographs, and Dice, mean over columns.

    Only columns that hold something are looked at.
    """
    count, depths = logits.shape[:2]
    place = occupancy.amax(1).flatten().nonzero()[:, 0]
    photo = place // logits[0, 0].numel()
    said, truth = (x.movedim(1, -1).reshape(-1, depths).index_select(0, place).float() for x in (logits, occupancy))

    def per_photo(columns: Tensor) -> Tensor:
        return columns.new_zeros(count).index_add(0, photo, columns)

    entropy = f.binary_cross_entropy_with_logits(said, truth, reduction="none").mean(1)
    cells = (per_photo(entropy) / per_photo(torch.ones_like(entropy)).clamp_min(1)).mean()
    share = said.sigmoid()
    overlap, sizes = 2 * (share * truth).sum(1), share.square().sum(1) + truth.sum(1)
    dice = (1 - per_photo(overlap) / per_photo(sizes).clamp_min(1)).mean()
    columns = (1 - overlap / sizes.clamp_min(1)).sum() / max(len(place), 1)
    return cells, dice, columns


def sample_colors(colors: Tensor, points: Tensor) -> Tensor:
    """Colour volumes [B, 3, S, H, W] at frustum points [B, N, 3] (right, down, away in −1…1) → [B, N, 3]."""
    grid = points[:, None, None]
    found = f.grid_sample(colors, grid, padding_mode="border", align_corners=False)
    return found[:, :, 0, 0].transpose(1, 2)


@torch.no_grad()
def validation(
    collection: Collection, *, count: int = 256, seed: int = 0, size: int = 32
) -> Callable[[nn.Module], dict[str, float]]:
    """A function that measures a network on ``count`` photographs, or as many as there are, one object after the other.

    It gives ``iou``: mean over photographs of the volume IoU in the frustum at a threshold of ½; ``iou_cut`` where the
    field's surface is (``embedded.cut``); ``color``: mean absolute error; ``elevation_deg``: mean absolute error.
    """
    from ..feedforward.columns import cut

    rng = np.random.default_rng(seed)
    count = min(count, len(collection))
    objects = np.arange(count) % len(collection.shares)
    rows = rng.integers(collection.starts[objects], collection.starts[objects + 1])
    prepared = [gather(collection, rows[i : i + size], None) for i in range(0, count, size)]

    def validate(network: nn.Module) -> dict[str, float]:
        device = next(network.parameters()).device
        sums: dict[str, list[Tensor]] = {"iou": [], "iou_cut": [], "color": [], "elevation_deg": []}
        for part in prepared:
            batch = {k: v.to(device) for k, v in part.items()}
            with torch.autocast(device.type, dtype=torch.bfloat16), torch.no_grad():
                predicted = network(batch["photo"])
            logits, truth = predicted.occupancy.float(), batch["occupancy"].bool()
            inside = truth.any(1, keepdim=True)
            for name, threshold in (("iou", 0.0), ("iou_cut", cut(logits))):
                mine = (logits > threshold) & inside
                sums[name].append((mine & truth).sum((1, 2, 3)) / (mine | truth).sum((1, 2, 3)).clamp_min(1))
            error = sample_colors(predicted.colors.float(), batch["points"]) - batch["colors"]
            sums["color"].append(error.abs().mean((1, 2)))
            tilt = (predicted.elevation - batch["elevation_deg"]).abs()
            sums["elevation_deg"].append(tilt[tilt.isfinite()])
        return {f"val_{k}": round(float(torch.cat(v).mean()), 4) for k, v in sums.items()}

    return validate
