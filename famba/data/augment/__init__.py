"""From 8-bit images to the model's input: `timm` (one image at a time), `batched` (a batch, on any device).

`batched` crops with `resample` and recolours with `randaugment`.
"""
