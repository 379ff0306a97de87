"""Run folders: made, locked, described, listed and found again."""
