"""Rows, pictures and views: from a metadata file to uint8 pictures and texts."""
