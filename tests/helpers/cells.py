"""Experiments as small as can be, and their cells."""

from famba.config import Cell, Experiment

MINIMAL = {"experiment": "x", "protocol": "smoke", "dataset": "digits", "models": ["vim_tiny"], "seeds": [0]}
MICRO = {
    "experiment": "micro",
    "protocol": "smoke",
    "dataset": "digits",
    "models": {"vim_micro": {"embed_dim": 16, "depth": 4, "img_size": 16, "patch_size": 4}},
    "strategies": ["baseline", "upper"],
    "seeds": [0],
    "fusion": {"budget": "proportional"},
    "device": "cpu",
    "threads": 1,
    "scan": "cpu",
    "recipe": {
        "epochs": 3, "global_batch": 128, "mixup_batch": 64, "micro_batch": 64, "lr": 4e-2, "warmup_epochs": 0,
        "augmentation": "tensor", "rand_augment": None, "hflip": 0, "random_erasing": 0, "crop_scale": [0.7, 1],
        "repeats": 1, "eval_resize": None, "ema_decay": 0.9, "workers": 0,
    },
}  # fmt: skip


def cell(strategy: str = "upper", **recipe: object) -> Cell:
    return Experiment.from_config({**MICRO, "recipe": {**MICRO["recipe"], **recipe}}).cell("vim_micro", strategy, 0)


def small_cell(strategy: str = "upper", **recipe: object) -> Cell:
    """One that learns little and trains faster: for what a training saves, reads and resumes."""
    models = {"vim_micro": MICRO["models"]["vim_micro"] | {"depth": 2, "patch_size": 8}}
    batches = {"global_batch": 256, "mixup_batch": 256, "micro_batch": 128}
    settings = {**MICRO["recipe"], **batches, **recipe}
    return Experiment.from_config({**MICRO, "models": models, "recipe": settings}).cell("vim_micro", strategy, 0)
