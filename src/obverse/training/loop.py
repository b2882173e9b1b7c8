"""The training loop: any network, any loss, any source of batches; averaged weights, resuming, curves.

The state after N steps depends on the seed and N only, so a run in pieces is as good as one long run; on a CPU, with
the same number of threads, to the bit. Where ``torch.distributed`` is initialised, every process takes batches of its
own and gradients are averaged over all (Goyal et al. 2017); all begin with the first one's weights, and it writes.
"""

from __future__ import annotations

import copy
import json
import math
import pickle
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as distributed
from torch import Tensor, nn

from ..errors import OutputError, UsageError, WeightsError
from ..formats.files import atomic_path, writing
from .muon import Muon

SMALLEST_MATRIX = 16  # rows and columns below which a matrix is left to AdamW
Batch = Mapping[str, Tensor]
Losses = dict[str, Tensor]


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to learn. A run lasts ``steps``, or ``minutes`` of training time where steps is None."""

    steps: int | None = 10_000
    minutes: float | None = None
    rate: float = 1e-3  # of both optimisers, after the warm-up
    muon: bool = True  # for the matrices inside the network; else AdamW for everything
    warm_up: int = 200  # steps over which the rate rises
    cool_down: float = 0.5  # last share of the run, over which the rate falls to nothing (Zhai et al. 2022)
    weight_decay: float = 0.02
    clip: float = 1.0  # largest norm of the gradient
    ema: float = 0.999  # share of the averaged weights that a step keeps, once the run is long enough
    save_every: int = 100  # steps between checkpoints
    check_every: int = 1000  # steps between validations
    accumulate: int = 1  # batches whose gradients are averaged into one step
    log_every: int = 50  # steps that a line of the log stands for

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.minutes is None):
            raise UsageError(
                f"steps is {self.steps} and minutes is {self.minutes}; give one of the two, the other None"
            )
        if self.steps is not None and self.steps < 1:
            raise UsageError(f"steps is {self.steps}, it must be at least 1")
        if self.minutes is not None and not 0 < self.minutes < math.inf:
            raise UsageError(f"minutes is {self.minutes}, it must be above 0 and finite")

    def rate_at(self, step: int, seconds: float) -> float:
        """Learning rate of a step that begins after ``seconds`` of training."""
        done = step / self.steps if self.steps else seconds / (60 * (self.minutes or 1))
        rise = min(1.0, (step + 1) / max(self.warm_up, 1))
        fall = min(1.0, max(0.0, (1 - done) / max(self.cool_down, 1e-9)))
        return self.rate * rise * fall

    def optimizers(self, network: nn.Module) -> list[torch.optim.Optimizer]:
        """What updates the network. A group with a ``"share"`` learns at that multiple of the rate."""
        return _optimizers(network, self)

    def over(self, step: int, seconds: float) -> bool:
        """Whether the run has ended."""
        return step >= self.steps if self.steps is not None else seconds >= 60 * (self.minutes or 0)


@dataclass
class State:
    """Everything a run carries from step to step."""

    network: nn.Module
    averaged: nn.Module
    optimizers: list[torch.optim.Optimizer]
    step: int = 0
    seconds: float = 0.0


def train(
    network: nn.Module,
    batch: Callable[[int], Batch],
    loss: Callable[[nn.Module, Batch], Losses],
    *,
    schedule: Schedule,
    folder: str | Path,
    validate: Callable[[nn.Module], dict[str, float]] | None = None,
    progress: Callable[[dict[str, Any]], None] | None = None,
    half: bool = True,
) -> State:
    """Train, or go on training, a network.

    Args:
        network: on the device to train on; its weights are the start unless ``folder`` holds a checkpoint.
        batch: number, from 0, → tensors on the CPU. Called ahead of time from one other thread. Processes that train
            together give different batches. Step s takes those from s times ``schedule.accumulate`` on.
        loss: (network, batch on the network's device) → named terms; the one called ``"loss"`` is minimised.
        schedule: how long and how fast.
        folder: ``checkpoint.pt`` and ``log.jsonl`` live here, and what the run goes on from.
        validate: called with the averaged network now and then; its numbers go into the log.
        progress: called with every line of the log.
        half: compute in bfloat16 where autocast allows it.

    Returns:
        The final state; ``state.averaged`` is what to keep.

    Raises:
        WeightsError: the folder's checkpoint is damaged or of another network or schedule.
        UsageError: processes that train together do not see one folder.
        OutputError: the folder cannot be written to.
    """
    folder = Path(folder)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    state = _start(network, schedule, folder / "checkpoint.pt")
    _agree_on_start(state)
    keeper = _Keeper(folder, schedule, validate, progress) if _rank() == 0 else None
    device, parts = next(network.parameters()).device, schedule.accumulate
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(batch, state.step * parts)
        while not schedule.over(state.step, state.seconds):
            start = time.perf_counter()
            for part in range(parts):
                current = {k: v.to(device, non_blocking=True) for k, v in coming.result().items()}
                coming = pool.submit(batch, state.step * parts + part + 1)
                with torch.autocast(device.type, dtype=torch.bfloat16, enabled=half):
                    terms = loss(state.network, current)
                (terms["loss"] / parts).backward()
                if keeper:
                    keeper.add(terms)
            _average_gradients(state.network)
            _step(state, schedule)
            state.seconds = _agreed(state.seconds + time.perf_counter() - start, device)
            if keeper:
                keeper.after(state)
        coming.result()
    if keeper:
        save(state, folder / "checkpoint.pt")
    return state


@dataclass
class _Keeper:
    """What the first process does beside training: checkpoints, validations, and the log, a line of JSON each."""

    folder: Path
    schedule: Schedule
    validate: Callable[[nn.Module], dict[str, float]] | None
    progress: Callable[[dict[str, Any]], None] | None
    window: dict[str, list[float]] = field(default_factory=dict)  # terms since the last line

    def add(self, terms: Losses) -> None:
        """Remember the terms of one batch."""
        for name, value in terms.items():
            self.window.setdefault(name, []).append(float(value.detach()))

    def after(self, state: State) -> None:
        """Note, save and validate where a step calls for it."""
        if state.step % self.schedule.log_every == 0:
            self.note(state, {k: round(sum(v) / len(v), 5) for k, v in self.window.items()})
            self.window.clear()
        if state.step % self.schedule.save_every == 0:
            save(state, self.folder / "checkpoint.pt")
        if self.validate and state.step % self.schedule.check_every == 0:
            self.note(state, self.validate(state.averaged))

    def note(self, state: State, numbers: Mapping[str, float]) -> None:
        """Add a line to the log."""
        row = {"step": state.step, "seconds": round(state.seconds, 1), **numbers}
        path = self.folder / "log.jsonl"
        with writing(path), path.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(row) + "\n")
        if self.progress:
            self.progress(row)


def _start(network: nn.Module, schedule: Schedule, checkpoint: Path) -> State:
    """A fresh state, or the one a checkpoint holds.

    Raises:
        WeightsError: it cannot be read, or is of another network or schedule.
    """
    optimizers = schedule.optimizers(network)
    averaged = _copy(network)
    state = State(network, averaged, optimizers)
    if not checkpoint.exists():
        return state
    try:
        stored = torch.load(checkpoint, map_location=next(network.parameters()).device, weights_only=True)
        network.load_state_dict(stored["network"])
        averaged.load_state_dict(stored["averaged"])
        for optimizer, kept in zip(optimizers, stored["optimizers"], strict=True):
            optimizer.load_state_dict(kept)
        state.step, state.seconds = int(stored["step"]), float(stored["seconds"])
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, EOFError, pickle.UnpicklingError) as error:
        why = " ".join(str(error).split())[:160] or "it ends early"
        raise WeightsError(
            f"{checkpoint} is damaged or of another network or schedule ({why}); choose another folder, or delete it "
            "to begin again"
        ) from error
    return state


def _optimizers(network: nn.Module, schedule: Schedule) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the network's inside; AdamW for all else."""
    named = {name: p for name, p in network.named_parameters() if p.requires_grad}
    matrices = [name for name, p in named.items() if p.ndim > 1 and min(p.shape[:2]) >= SMALLEST_MATRIX]
    inside = set(matrices[1:-1]) if schedule.muon else set()
    vectors = [p for p in named.values() if p.ndim <= 1]
    rest = [p for name, p in named.items() if p.ndim > 1 and name not in inside]
    groups = [{"params": rest, "weight_decay": schedule.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    found: list[torch.optim.Optimizer] = [
        torch.optim.AdamW([g for g in groups if g["params"]], lr=schedule.rate, betas=(0.9, 0.98), fused=True)
    ]
    if inside:
        chosen = [named[name] for name in matrices if name in inside]
        found.append(Muon(chosen, lr=schedule.rate, weight_decay=schedule.weight_decay))
    return found


def _rank() -> int:
    """This process's number among those that train together."""
    return distributed.get_rank() if _together() else 0


def _together() -> bool:
    """Whether several processes train together."""
    return bool(distributed.is_available() and distributed.is_initialized())


def _agree_on_start(state: State) -> None:
    """Give every process the first one's weights; averaged gradients keep them equal from then on.

    Raises:
        UsageError: a process found another checkpoint than the first, or none.
    """
    if not _together():
        return
    tensors = [*state.network.state_dict().values(), *state.averaged.state_dict().values()]
    first = torch.tensor(state.step, device=tensors[0].device)
    for tensor in (first, *tensors):
        distributed.broadcast(tensor, 0)
    if int(first) != state.step:
        raise UsageError(
            f"process {_rank()} would go on from step {state.step}, the first from {int(first)}; give a folder that "
            "all of them see"
        )


def _average_gradients(network: nn.Module) -> None:
    """Replace every gradient by its mean over the processes that train together."""
    if not _together():
        return
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    flat = torch.cat([g.flatten() for g in gradients])
    distributed.all_reduce(flat)
    flat /= distributed.get_world_size()
    for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


def _agreed(seconds: float, device: torch.device) -> float:
    """The first process's clock, so that all that train together learn at one rate and end at one step."""
    if not _together():
        return seconds
    shared = torch.tensor([seconds], dtype=torch.float64, device=device)
    distributed.broadcast(shared, 0)
    return float(shared)


def _copy(network: nn.Module) -> nn.Module:
    return copy.deepcopy(network).requires_grad_(False)


def _step(state: State, schedule: Schedule) -> None:
    """Clip, update, average."""
    for group in (g for o in state.optimizers for g in o.param_groups):
        group["lr"] = schedule.rate_at(state.step, state.seconds) * group.get("share", 1.0)
    norm = nn.utils.clip_grad_norm_(state.network.parameters(), schedule.clip)
    if math.isfinite(float(norm)):  # a batch that overflows is left out, not learnt from
        for optimizer in state.optimizers:
            optimizer.step()
    state.network.zero_grad(set_to_none=True)
    state.step += 1
    keep = min(schedule.ema, (1 + state.step) / (10 + state.step))
    with torch.no_grad():
        torch._foreach_lerp_(list(state.averaged.parameters()), list(state.network.parameters()), 1 - keep)


def save(state: State, path: Path) -> None:
    """Write a checkpoint under a temporary name and rename it.

    Raises:
        OutputError: the system refused.
    """
    stored = {
        "network": state.network.state_dict(),
        "averaged": state.averaged.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in state.optimizers],
        "step": state.step,
        "seconds": state.seconds,
    }
    with atomic_path(path) as hidden:
        try:
            torch.save(stored, hidden)
        except RuntimeError as error:  # how torch says that the disk is full
            raise OutputError(f"{path} could not be written ({error}); free some space") from error
