"""Rasterisers and fields: Gaussians, triangles and densities → images."""
