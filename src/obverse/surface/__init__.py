"""Fields and Gaussians → closed, textured meshes; meshes → Gaussians."""
