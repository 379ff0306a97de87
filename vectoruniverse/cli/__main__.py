"""``python -m vectoruniverse.cli`` is ``vu``."""

from vectoruniverse.cli import main

main()
