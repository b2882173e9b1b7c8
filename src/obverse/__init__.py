"""obverse: one photo of an object in, a 3D asset out.

>>> import obverse
>>> asset = obverse.create("chair.jpg")  # doctest: +SKIP
>>> asset.save("out")  # doctest: +SKIP
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .asset import Asset as Asset
    from .cameras import Cameras as Cameras
    from .cameras import Views as Views
    from .cameras import orbit as orbit
    from .create import METHODS as METHODS
    from .create import Settings as Settings
    from .create import create as create
    from .errors import InputError as InputError
    from .errors import NoObjectError as NoObjectError
    from .errors import ObverseError as ObverseError
    from .formats.meshes import read_mesh as read_mesh
    from .formats.splats import read_splats as read_splats
    from .gaussians import Gaussians as Gaussians
    from .photo import Subject as Subject
    from .photo import read_photo as read_photo

# Public name → module that defines it; loaded on first use, so that `import obverse` costs nothing.
_WHERE = {
    "Asset": "asset",
    "Cameras": "cameras",
    "Gaussians": "gaussians",
    "InputError": "errors",
    "METHODS": "create",
    "NoObjectError": "errors",
    "ObverseError": "errors",
    "Settings": "create",
    "Subject": "photo",
    "Views": "cameras",
    "create": "create",
    "orbit": "cameras",
    "read_mesh": "formats.meshes",
    "read_photo": "photo",
    "read_splats": "formats.splats",
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
