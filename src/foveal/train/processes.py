"""Which of the processes of a run this one is, before the loop asks accelerate."""

import os


def process_index_and_count() -> tuple[int, int]:
    """From what torchrun and accelerate launch set; (0, 1) for a process alone."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def is_main_process() -> bool:
    """Whether this process writes what is written once."""
    return process_index_and_count()[0] == 0
