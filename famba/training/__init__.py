"""The training of a cell: the loop, its step, optimiser and evaluation; its lock, checkpoint, progress and status."""
