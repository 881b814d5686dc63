"""The training loop, which knows no task, data or network."""
