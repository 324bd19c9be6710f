"""From 8-bit images to the model's input: by timm, one image at a time (`augmentation: timm`), or a whole batch on any
device (`augmentation: tensor`).
"""
