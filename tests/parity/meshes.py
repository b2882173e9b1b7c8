"""Comparing meshes whose vertices and faces may be numbered differently."""

import numpy as np
from scipy.spatial import cKDTree


def triangles(faces):
    """Each as it begins with its lowest vertex, in order."""
    faces = np.asarray(faces)
    first = faces.argmin(axis=1)
    return sorted(map(tuple, np.take_along_axis(faces, (first[:, None] + np.arange(3)) % 3, axis=1).tolist()))


def same_mesh(vertices, faces, expected_vertices, expected_faces, atol):
    """Assert that two meshes are the same, facing the same way, but for the numbering."""
    gap, number = cKDTree(np.asarray(vertices)).query(np.asarray(expected_vertices))
    assert len(vertices) == len(expected_vertices) == len(set(number.tolist()))
    assert gap.max() < atol
    assert triangles(faces) == triangles(number[np.asarray(expected_faces)])
