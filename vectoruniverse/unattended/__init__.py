"""Runs that nobody watches: what this machine lacks for one, and the schedule that starts it."""
