"""What can be learned: one folder a task, and what the runner asks of each."""
