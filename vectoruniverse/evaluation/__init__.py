"""Models on the same rows: retrieval, paired differences, runs beside each other."""
