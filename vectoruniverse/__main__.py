"""``python -m vectoruniverse``, which is how torchrun starts ``vu``."""

from vectoruniverse.cli import main

main()
