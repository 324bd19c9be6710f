"""What a training runs on: its device and memory, the host, the container, and what of it is missing."""
