"""Models and their inputs: loaded from a folder or the hub, built from scratch, with their heads and tokenizers."""
