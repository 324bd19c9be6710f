"""A cell's folder and its life: the command that trains it, its lock, checkpoint, progress, and how others see it."""
