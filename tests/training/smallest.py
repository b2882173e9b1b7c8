"""The smallest Zero-1-to-3 that still has every part, and a shard of boxes to train it on."""

from pathlib import Path

import trimesh

from obverse.multiview.zero123 import Sizes
from obverse.training.shards import shard_path, write_shard
from obverse.training.view_data import photograph_object

SMALLEST = Sizes(
    size=16, channels=(8, 16), layers=1, heads=2, vae_channels=(8, 8), vae_layers=1, groups=4,
    embedding=8, clip_size=16, clip_patch=8, clip_width=16, clip_hidden=16, clip_layers=1, clip_heads=2,
)  # fmt: skip


def write_boxes(folder: Path, *, views: int) -> Path:
    """Three boxes of different heights in one shard → the folder."""
    boxes = [trimesh.creation.box((1, 0.3 + 0.2 * i, 0.5)) for i in range(3)]
    photographed = [photograph_object(box, f"box{i}", views=views, size=16) for i, box in enumerate(boxes)]
    write_shard(shard_path(folder, 0), photographed, [])
    return folder
