"""The experiment file: its fields, its strict loading, its documentation."""
