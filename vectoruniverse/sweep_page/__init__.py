"""The page of a sweep, written from its record: figures, tables, and what they say in plain words."""
