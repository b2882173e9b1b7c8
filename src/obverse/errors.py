"""What can go wrong, and the exit code each kind of failure gives on the command line.

    ObverseError              1  anything below, or a failure with no better name
    ├── UsageError            2  an option or argument that cannot be meant
    ├── NoObjectError         3  the photo was read, but no object was found in it
    ├── PartialFailure        4  some inputs of a batch failed, the others are done
    ├── WeightsError          5  weights are missing, damaged or of another family
    ├── InputError            6  a file, image, mesh or array that cannot be used
    ├── MissingPackageError   7  an optional package is not installed
    └── OutputError           8  the result could not be written

Every message states the value, the rule it breaks and the remedy.
"""

from __future__ import annotations

import importlib
from types import ModuleType

EXIT_CODES = {
    0: "done",
    1: "failed",
    2: "bad usage",
    3: "no object found in the photo",
    4: "some inputs failed",
    5: "weights missing or unusable",
    6: "input unusable",
    7: "an optional package is missing",
    8: "output could not be written",
    130: "interrupted",
}


class ObverseError(Exception):
    """Base of every error obverse raises on purpose."""

    exit_code = 1


class UsageError(ObverseError, ValueError):
    """An option or argument has a value that cannot be meant."""

    exit_code = 2


class NoObjectError(ObverseError):
    """The photo was read, but nothing in it could be told from the background."""

    exit_code = 3


class PartialFailure(ObverseError):
    """Some inputs of a batch failed; the others are done."""

    exit_code = 4


class WeightsError(ObverseError):
    """Model weights are missing, damaged, or belong to another family."""

    exit_code = 5


class InputError(ObverseError, ValueError):
    """A file, image, mesh or array cannot be used as it is."""

    exit_code = 6


class MissingPackageError(ObverseError, ImportError):
    """An optional package is needed and not installed."""

    exit_code = 7


class OutputError(ObverseError, OSError):
    """The result could not be written."""

    exit_code = 8


def need(package: str, *, extra: str, purpose: str = "") -> ModuleType:
    """Import an optional package, or say which extra installs it.

    Args:
        package: dotted module name, e.g. ``"imageio_ffmpeg"``.
        extra: the extra of obverse that brings it, e.g. ``"video"``.
        purpose: what it is needed for, e.g. ``"writing .mp4"``; becomes part of the message.

    Raises:
        MissingPackageError: the package is not installed.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        what = f"{purpose} needs" if purpose else "this needs"
        raise MissingPackageError(
            f'{what} the package {package!r}, which is not installed; run: pip install "obverse[{extra}]"'
        ) from error
