"""``python -m obverse``."""

from .apps.cli import main

main()
