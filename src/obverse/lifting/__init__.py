"""Lifting: views with cameras → Gaussians, in closed form or by optimisation."""
