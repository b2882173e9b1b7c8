"""A photo as a file, for commands."""

import pytest
from PIL import Image

from ..conftest import disc_photo


@pytest.fixture
def photo(tmp_path):
    """An orange disc on nothing, 256 pixels a side."""
    path = tmp_path / "disc.png"
    Image.fromarray(disc_photo(size=256, radius=90, center=(128, 128))).save(path)
    return path
