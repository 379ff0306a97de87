"""Numbers computed without gradients, for people: ranking, geometry of the embedding space, and their uncertainty."""
