"""From 8-bit images to the model's input: `pil` (timm, one image at a time), `tensor` (batched, on any device)."""
