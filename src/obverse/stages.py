"""Stages: names for the parts of a run, with the seconds and memory each took, told to whoever listens."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

Listener = Callable[[str, str], None]  # called with (stage name, "start" or "end")


@dataclass
class Stages:
    """A stopwatch with names.

    >>> stages = Stages()
    >>> with stages("mesh"):
    ...     pass
    >>> [row["name"] for row in stages.rows]
    ['mesh']
    """

    listener: Listener | None = None
    rows: list[dict[str, str | float | None]] = field(default_factory=list)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Time a block under ``name``; a block that raises leaves no row."""
        if self.listener:
            self.listener(name, "start")
        start = time.perf_counter()
        yield
        self.rows.append({"name": name, "seconds": round(time.perf_counter() - start, 4), "peak_mb": peak_memory_mb()})
        if self.listener:
            self.listener(name, "end")

    @property
    def seconds(self) -> float:
        """Sum over all stages."""
        return sum(float(row["seconds"] or 0) for row in self.rows)


def peak_memory_mb() -> float | None:
    """Largest resident size of this process since it started, in MB (10⁶ bytes); None where the system cannot tell."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak * (1 if sys.platform == "darwin" else 1024) / 1e6, 1)
