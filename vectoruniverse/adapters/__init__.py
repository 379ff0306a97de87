"""What is trained on the frozen encoder."""
