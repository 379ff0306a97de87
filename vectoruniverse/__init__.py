"""Command-line experiments for multimodal contrastive fine-tuning."""

__version__ = "0.1.0"
