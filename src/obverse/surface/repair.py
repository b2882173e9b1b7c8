"""Proof and repair of watertightness, and simplification that keeps it.

Watertight is meant literally here: after joining vertices of exactly equal position, every edge belongs to exactly two
faces that pass it in opposite directions, the faces around every vertex form one fan, no face is degenerate or double,
and the enclosed volume is positive. Every function that returns a mesh proves this before it returns, and rounds
positions to float32, so that the files written from it keep the proof.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import trimesh
from numpy.typing import NDArray

from ..errors import InputError, UsageError
from ..topology import Edges, components, corner_fans, face_normals, round32, unique_rows, weld
from .decimate import decimate
from .fixes import Patchwork, fix_exactly
from .remesh import colors_at, remesh


@dataclass(frozen=True)
class Watertight:
    """What ``check_watertight`` found. Counts are taken after joining vertices of exactly equal position."""

    closed: bool  # every edge belongs to exactly two faces
    oriented: bool  # no two faces pass an edge in the same direction
    manifold_vertices: bool  # the faces around every vertex form one fan
    volume: float  # signed, in the cubed unit of the mesh; positive if faces are counter-clockwise seen from outside
    degenerate_faces: int  # a repeated corner, exactly no area, or a position that is not finite
    duplicate_faces: int  # faces with the corners of another face, in any order
    open_edges: int  # edges of one face only
    crowded_edges: int  # edges of more than two faces
    components: int
    vertices: int
    faces: int
    euler: int  # vertices - edges + faces

    @property
    def ok(self) -> bool:
        """Whether the mesh is a closed, oriented 2-manifold without degenerate faces and encloses a volume."""
        return not self.faults()

    @property
    def genus(self) -> int | None:
        """The number of handles, summed over the components; None unless closed and manifold."""
        if not (self.closed and self.oriented and self.manifold_vertices):
            return None
        return (2 * self.components - self.euler) // 2

    def faults(self) -> list[str]:
        """What keeps the mesh from being watertight, one short phrase each; empty if nothing does."""
        found = [
            (self.faces == 0, "no faces"),
            (self.degenerate_faces > 0, f"{self.degenerate_faces} degenerate faces"),
            (self.duplicate_faces > 0, f"{self.duplicate_faces} duplicate faces"),
            (self.open_edges > 0, f"{self.open_edges} open edges"),
            (self.crowded_edges > 0, f"{self.crowded_edges} edges of more than two faces"),
            (not self.oriented, "neighbouring faces that disagree about outside"),
            (not self.manifold_vertices, "vertices where separate fans of faces touch"),
            (not self.volume > 0, f"a volume of {self.volume:.3g}"),
        ]
        return [what for wrong, what in found if wrong]

    def to_dict(self) -> dict[str, Any]:
        """All fields, and ``ok`` and ``genus``, as plain Python values."""
        return {"ok": self.ok, **asdict(self), "genus": self.genus}


def check_watertight(mesh: trimesh.Trimesh) -> Watertight:
    """Test every half-edge and every vertex of a mesh; see ``Watertight`` for what is reported.

    Vertices are joined where all three coordinates are equal first, because files store a vertex twice along a texture
    seam. Exactly equal, not nearly: what this accepts needs no tolerance in any other program.
    """
    return check_faces(np.asarray(mesh.vertices, np.float64), np.asarray(mesh.faces, np.int64))


def check_faces(vertices: NDArray[np.float64], faces: NDArray[np.int64]) -> Watertight:
    """``check_watertight`` for bare arrays: vertices [n, 3] and faces [m, 3]."""
    faces = faces.reshape(-1, 3)
    vertices, label = weld(vertices)
    faces = label[faces]
    area = face_normals(vertices, faces)
    with np.errstate(invalid="ignore"):
        size = np.abs(area).max(axis=1, initial=0)
        degenerate = ~((size > 0) & np.isfinite(size))
        volume = float(np.einsum("ij,ij->", vertices[faces[:, 0]], area) / 6)

    edges = Edges.of(faces)
    corners = corner_fans(faces, edges)
    used = np.flatnonzero(np.bincount(faces.ravel(), minlength=len(vertices)))
    parts = components(faces, len(vertices))
    return Watertight(
        closed=bool((edges.count == 2).all()) and len(faces) > 0,
        oriented=edges.agree(),
        manifold_vertices=int(corners.max(initial=-1)) + 1 == len(used),
        volume=volume,
        degenerate_faces=int(degenerate.sum()),
        duplicate_faces=len(faces) - len(unique_rows(np.sort(faces, axis=1))),
        open_edges=int((edges.count == 1).sum()),
        crowded_edges=int((edges.count > 2).sum()),
        components=len(np.unique(parts)),
        vertices=len(used),
        faces=len(faces),
        euler=len(used) - len(edges.count) + len(faces),
    )


def make_watertight(mesh: trimesh.Trimesh, *, resolution: int = 192) -> trimesh.Trimesh:
    """A mesh that ``check_watertight`` accepts, from any triangles.

    A sound mesh is returned as it is, rounded to float32. Else the exact repairs are tried, which keep all sound parts
    and the texture or vertex colours: vertices closer than a millionth of the size are joined, useless faces dropped,
    T-junctions split, faces turned to agree about outside, touching fans drawn apart, small holes filled. If that is
    no proof, the solid is sampled on a grid and meshed anew (see ``remesh``); then colours become vertex colours,
    taken from the nearest point of the given surface, and single sheets become thin solids.

    Parts may still intersect each other after exact repairs, as they do in many sound files.

    Args:
        mesh: any triangle mesh; faces with positions that are not finite are ignored.
        resolution: cells along the longest side if the mesh must be meshed anew, 16 to 1024.

    Returns:
        A new mesh. ``metadata["repair"]`` is ``"none"``, ``"exact"`` or ``"remeshed"``.

    Raises:
        UsageError: the resolution is out of range.
        InputError: no face has an area.
    """
    if not 16 <= resolution <= 1024:
        raise UsageError(f"resolution is {resolution}, but it must be 16 to 1024 cells; 192 suits most objects")
    work = Patchwork.of(mesh)
    with np.errstate(invalid="ignore"):
        solid = np.flatnonzero(np.square(face_normals(work.points, work.faces)).sum(axis=1) > 0)
    solid = solid[np.isfinite(work.points[work.faces[solid]]).all(axis=(1, 2))]
    if not len(solid):
        raise InputError(
            f"none of the {len(work.faces)} faces has an area and finite corners, but a solid needs some; "
            "check the file"
        )
    if check_faces(work.points, work.faces).ok:
        return _named(work.mesh(mesh), "none")
    fixed = fix_exactly(work)
    if fixed is not None and check_faces(fixed.points, fixed.faces).ok:
        return _named(fixed.mesh(mesh), "exact")

    vertices, faces, nearest = remesh(work.points[work.faces[solid]], resolution=resolution)
    made = closed_mesh(vertices, faces)
    colors = colors_at(mesh, solid[nearest], vertices)
    if colors is not None:
        made.visual = trimesh.visual.ColorVisuals(made, vertex_colors=colors)
    found = check_watertight(made)
    if not found.ok:
        raise InputError(
            f"after remeshing at {resolution} cells the mesh still has {', '.join(found.faults())}: its coordinates, "
            f"up to {np.abs(work.points[work.faces[solid]]).max():.3g}, are too large for float32; centre and scale it"
        )
    return _named(made, "remeshed")


def _named(mesh: trimesh.Trimesh, repair: str) -> trimesh.Trimesh:
    """Note in the metadata what was done."""
    mesh.metadata["repair"] = repair
    return mesh


def simplify(mesh: trimesh.Trimesh, faces: int, *, strict: bool = True) -> trimesh.Trimesh:
    """Reduce a mesh to ``faces`` faces by quadric edge collapse, and prove it watertight again.

    The count is met to within one face unless the shape forbids it (see Raises). Every collapse keeps the surface a
    manifold of the same genus (see ``decimate``). Colours and texture are not carried along: bake them afterwards. A
    mesh that is not watertight is made so first; one that has no more faces than asked for is only rounded.

    Args:
        mesh: any.
        faces: how many to leave.
        strict: refuse when the handles and parts of the mesh need over 5 % more; else leave as few as they allow.

    Raises:
        UsageError: fewer than 4 faces are asked for.
        InputError: as ``strict`` says, or the mesh has no area.
    """
    if faces < 4:
        raise UsageError(f"{faces} faces are asked for, but a closed mesh has at least 4; ask for some thousands")
    points = round32(mesh.vertices)
    triangles = np.asarray(mesh.faces, np.int64).reshape(-1, 3)
    if not check_faces(points, triangles).ok:
        whole = make_watertight(mesh)
        points, triangles = np.asarray(whole.vertices), np.asarray(whole.faces)
    if len(triangles) <= faces:
        return closed_mesh(points, triangles)
    points, label = weld(points)
    points, triangles = decimate(points, label[triangles], faces)
    if strict and len(triangles) > 1.05 * faces:
        raise InputError(
            f"{faces} faces are asked for, but the handles and parts of this mesh need {len(triangles)}; ask for more, "
            "or drop small parts first"
        )
    found = check_faces(points, triangles)
    if not found.ok:
        raise InputError(
            f"simplified to {len(triangles)} faces the mesh has {', '.join(found.faults())}; ask for more faces"
        )
    return closed_mesh(points, triangles)


def closed_mesh(vertices: NDArray, faces: NDArray) -> trimesh.Trimesh:
    """A mesh of vertices [n, 3] and faces [m, 3], unprocessed, with positions rounded to float32."""
    return trimesh.Trimesh(round32(vertices), np.asarray(faces, np.int64), process=False)
