"""What the command line shows: progress, warnings, results and errors, each on its stream.

Results go to standard output; everything else, progress included, to standard error, so that output can be piped.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..errors import InputError, ObverseError, OutputError
from ..stages import Stages

if TYPE_CHECKING:
    from ..checks import Check  # numpy, which --help does without

# What each stage does, for people; stages not listed are shown by name.
STAGE_WORDS = {
    "photo": "reading the photo, cutting the object out",
    "triposr": "reconstructing with TripoSR",
    "surface": "extracting the surface",
    "repair": "closing and simplifying the mesh",
    "texture": "projecting the photo, baking the texture",
    "gaussians": "placing Gaussians",
    "agreement": "comparing with the photo",
    "inspect": "looking for faults from all around",
    "asset.glb": "writing the mesh",
    "asset.ply": "writing the splat",
    "contact sheet": "drawing the contact sheet",
    "turntable": "turning the table",
}


@dataclass
class Console:
    """The voice of one command."""

    json_output: bool = False
    verbosity: int = 0  # −1 quiet, 0 normal, 1 verbose
    stages_expected: int = 12
    stages: Stages = field(default_factory=Stages)

    def __post_init__(self) -> None:
        logging.basicConfig(format="obverse: %(message)s", stream=sys.stderr)
        logging.getLogger("obverse").setLevel(logging.ERROR if self.verbosity < 0 else logging.INFO)

    def say(self, text: str) -> None:
        """A remark on standard error, unless quiet."""
        if self.verbosity >= 0:
            print(text, file=sys.stderr, flush=True)

    def detail(self, text: str) -> None:
        """A remark on standard error, only if verbose."""
        if self.verbosity > 0:
            print(text, file=sys.stderr, flush=True)

    def doubt(self, check: Check) -> None:
        """What a check found, on standard error; warnings also when quiet: they are why a result may disappoint."""
        if check.severity == "warning" or self.verbosity >= 0:
            print(f"{check.severity} [{check.name}]: {check.message}; {check.remedy}", file=sys.stderr, flush=True)

    def result(self, record: dict[str, Any], text: str) -> None:
        """The result on standard output: one JSON object on one line, or text for people."""
        if self.json_output:
            print(json.dumps(record), flush=True)
        elif self.verbosity >= 0:
            print(text, flush=True)

    @contextmanager
    def progress(self, title: str) -> Iterator[Stages]:
        """Show the stages of a run as a bar on a terminal, as lines if verbose, else not at all."""
        if self.verbosity < 0 or self.json_output or not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
            yield Stages(listener=self._line)
            return
        from rich.console import Console as RichConsole
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (
            TextColumn("{task.fields[title]}"),
            BarColumn(24),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=RichConsole(stderr=True), transient=True) as bar:
            task = bar.add_task("", total=self.stages_expected, title=title)

            def listen(name: str, event: str) -> None:
                stop_if_interrupted()
                if event == "start":
                    bar.update(task, description=STAGE_WORDS.get(name, name))
                else:
                    bar.advance(task)

            yield Stages(listener=listen)

    def _line(self, name: str, event: str) -> None:
        stop_if_interrupted()
        if event == "start":
            self.detail(f"  {STAGE_WORDS.get(name, name)}")


def read_input(name: str) -> str | bytes:
    """A file name as it is; ``-`` → the bytes of standard input.

    Raises:
        InputError: nothing comes in.
    """
    if name != "-":
        return name
    data = sys.stdin.buffer.read() if sys.stdin else b""  # None: closed by whoever started us
    if not data:
        raise InputError("standard input is empty; pipe an image into it, or name a file")
    return data


def write_stdout(data: bytes) -> None:
    """Bytes to standard output.

    Raises:
        OutputError: the system refused. BrokenPipeError: the reader has gone, which is its right.
    """
    if sys.stdout is None:
        raise OutputError("standard output is closed; write to a folder with -o")
    try:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  what is buffered cannot be written at exit either
        raise OutputError(f"standard output: {error.strerror}; free some space or write to a folder with -o") from error


@contextmanager
def listening_for_interrupts() -> Iterator[None]:
    """Remember that Ctrl-C was pressed: some packages swallow the exception while they are imported; we ask again."""

    def remember(signum: int, frame: object) -> None:
        _Interrupt.pressed = True
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _Interrupt.pressed = False
    before = signal.signal(signal.SIGINT, remember)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def stop_if_interrupted() -> None:
    """Raise KeyboardInterrupt if Ctrl-C was pressed and the exception got lost."""
    if _Interrupt.pressed:
        raise KeyboardInterrupt


class _Interrupt:
    pressed = False


def describe(error: BaseException) -> tuple[int, str]:
    """An exception → exit code and the sentence to print; unexpected ones name themselves, without a traceback."""
    if isinstance(error, ObverseError):
        return error.exit_code, str(error)
    if isinstance(error, KeyboardInterrupt) or type(error).__name__ == "Abort":
        return 130, "interrupted; nothing half-written was left"
    if isinstance(error, MemoryError):
        return 1, "out of memory; lower --resolution, --texture or --gaussians, or pass a smaller photo"
    return 1, (
        f"unexpected {type(error).__name__}: {error}. This is a bug in obverse; run again with OBVERSE_TRACEBACK=1 and "
        "report what it prints"
    )
