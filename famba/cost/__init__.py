"""What a training costs on a device. What it costs by count is `famba.flops`."""
