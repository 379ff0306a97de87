"""Runs in the formats of other libraries, each checked through the library that will read it."""
