"""Photo → consistent views by diffusion; one file per family."""
