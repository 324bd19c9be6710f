"""What a training runs on: its device and memory, the host, the container."""
