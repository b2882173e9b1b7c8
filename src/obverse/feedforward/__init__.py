"""Photo (or views) → field, Gaussians or mesh in one pass; one file per family."""
