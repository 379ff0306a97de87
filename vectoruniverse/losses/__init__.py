"""What is minimised: contrastive losses, penalties, and the loss that an experiment asks for."""
