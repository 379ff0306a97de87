"""From an experiment to the parts of a run: plain values out of the config, handed to the rooms below."""
