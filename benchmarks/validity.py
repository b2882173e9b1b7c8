"""Does every photo give a valid asset? Runs the whole path over photos and over renders of known objects.

    python benchmarks/validity.py --photos DIR --objects DIR -o OUT

Each object is rendered to 512² RGBA at elevation 10° from its front and at elevation 25° from 35° to the right, as a
product photo might be taken. An asset is valid when its mesh is closed, oriented and of positive volume, also after
being written to GLB and read again, and when the camera at azimuth 0 and elevation 0 sees the photo's silhouette
(IoU at least 0.95): upright, facing +Z. Sheets of all of them are written to be looked at.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import trimesh
from PIL import Image

from obverse import create, read_mesh
from obverse.cameras import orbit
from obverse.errors import ObverseError
from obverse.render.triangles import render_mesh
from obverse.sheet import contact_sheet, to_image
from obverse.surface.repair import check_watertight

POSES = ((0.0, 10.0), (35.0, 25.0))  # azimuth and elevation of the renders
LEAST_IOU = 0.95


def renders(objects: Path, folder: Path):
    for path in sorted(objects.glob("*.glb")):
        mesh = trimesh.load(path, force="mesh", process=False)
        for azimuth, elevation in POSES:
            target = folder / f"{path.stem}_{elevation:.0f}.png"
            if not target.exists():
                view = render_mesh(mesh, orbit(azimuth, elevation, size=512), background=None)[0]
                to_image(view).save(target)
            yield target


def judge(photo: Path, folder: Path) -> dict:
    start = time.perf_counter()
    row = {"photo": photo.name, "valid": False}
    try:
        asset = create(photo)
        asset.save(folder / photo.stem, formats=["glb", "ply"])
    except ObverseError as error:
        return {**row, "error": f"{type(error).__name__}: {error}"}
    again = check_watertight(read_mesh(folder / photo.stem / "asset.glb"))
    agreement = asset.report["photo_agreement"]
    row |= {
        "watertight": bool(asset.report["mesh"]["watertight"]["ok"] and again.ok),
        "silhouette_iou": agreement["silhouette_iou"],
        "psnr_db": agreement["psnr_db"],
        "faces": asset.report["mesh"]["faces"],
        "utilisation": asset.report["mesh"]["texture_utilisation"],
        "matte": asset.subject.matte,
        "checks": [check.name for check in asset.subject.checks],
        "seconds": round(time.perf_counter() - start, 2),
    }
    row["valid"] = row["watertight"] and row["silhouette_iou"] >= LEAST_IOU
    contact_sheet(asset, cell=112).save(folder / f"{photo.stem}.png")
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--objects", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    renders_folder = options.output / "renders"
    renders_folder.mkdir(parents=True, exist_ok=True)
    photos = []
    if options.photos:
        photos += sorted(p for p in options.photos.iterdir() if p.suffix.lower() in {".jpg", ".png", ".webp"})
    if options.objects:
        photos += renders(options.objects, renders_folder)
    rows = []
    for photo in photos:
        rows.append(judge(photo, options.output))
        print(json.dumps(rows[-1]), flush=True)
    (options.output / "validity.json").write_text(json.dumps(rows, indent=1))
    sheets = [options.output / f"{photo.stem}.png" for photo in photos]
    sheets = [np.asarray(Image.open(path)) for path in sheets if path.exists()]
    for start in range(0, len(sheets), 8):
        Image.fromarray(np.concatenate(sheets[start : start + 8])).save(options.output / f"page_{start // 8:02d}.png")
    done = [row for row in rows if "seconds" in row]
    print(f"valid: {sum(row['valid'] for row in rows)} of {len(rows)}")
    for key in ("silhouette_iou", "psnr_db", "seconds", "utilisation"):
        values = np.array([row[key] for row in done])
        print(f"{key}: median {np.median(values):.3f}, worst {values.min():.3f} to {values.max():.3f}")


if __name__ == "__main__":
    main()
