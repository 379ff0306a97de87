"""The loop and what it needs: optimizer, checkpoints, device."""
