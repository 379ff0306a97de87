"""The page of a sweep, from its record."""
