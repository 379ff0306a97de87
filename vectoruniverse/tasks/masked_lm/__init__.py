"""BERT pre-training: masked tokens and next sentences."""
