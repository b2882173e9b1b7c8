"""obverse: one photo of an object in, a 3D asset out."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .cameras import Cameras as Cameras
    from .cameras import Views as Views
    from .cameras import orbit as orbit
    from .errors import InputError as InputError
    from .errors import NoObjectError as NoObjectError
    from .errors import ObverseError as ObverseError
    from .gaussians import Gaussians as Gaussians

# Public name → module that defines it; loaded on first use, so that `import obverse` costs nothing.
_WHERE = {
    "Cameras": "cameras",
    "Gaussians": "gaussians",
    "InputError": "errors",
    "NoObjectError": "errors",
    "ObverseError": "errors",
    "Views": "cameras",
    "orbit": "cameras",
}

__all__ = ["__version__", *_WHERE]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'obverse' has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_WHERE[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_WHERE})
