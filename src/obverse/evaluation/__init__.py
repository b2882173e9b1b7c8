"""Judging results: geometry and pictures against a truth, findings without one, and tables over many objects."""
