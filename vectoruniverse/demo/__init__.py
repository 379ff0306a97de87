"""What exists to show the product: pictograms, texts, and the tiny CLIP that comes with the package."""
