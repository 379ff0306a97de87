"""Hugging Face models that turn pictures and texts into vectors."""
