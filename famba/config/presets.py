"""Named training recipes: the two readings of what trained the paper's models (paper-facts §4).

Which of the two produced the published tables is not known.

`paper-scripts` is what the released SLURM scripts resolve to, setting by setting: the defaults of `Recipe`.

`paper-text` is the text of the paper's section 4, "training settings of Vim". The text names AdamW with momentum 0.9,
batch size 128, weight decay 0.1, 300 epochs, a cosine from 1e-3, random cropping, horizontal flip, label smoothing,
mixup, random erasing and an exponential moving average. The scripts agree with all of these but two: they peak at 5e-4
with a batch of 4 x 128. The text does not name RandAugment and cutmix, which the scripts use: `paper-text` has neither.
The text leaves open the warm-up, repeated augmentation, the end of the cosine, the strengths of mixup, label smoothing
and random erasing, beta 2 and the decay of the moving average: `paper-text` takes the scripts' values. The batch of 128
is read as the global one.
"""

from collections.abc import Mapping
from typing import Any, Literal

Preset = Literal["paper-scripts", "paper-text", "custom"]
SCRIPTS: Preset = "paper-scripts"

# what differs from the defaults of Recipe
PRESETS: dict[Preset, dict[str, Any]] = {
    "paper-scripts": {},
    "paper-text": {
        "global_batch": 128,
        "lr": 4e-3,  # at a global batch of 512: 1e-3 at 128
        "rand_augment": None,
        "cutmix": 0.0,
    },
}

# settings that change speed or memory and not what is computed
FREE = frozenset({"micro_batch", "eval_batch", "workers"})
# settings of how the arithmetic is carried out: no part of a preset, and what protocol `fast` may set
EXECUTION = frozenset({"precision", "augmentation", "cuda_graphs"})


def preset_of(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> Preset:
    """The preset that a recipe's values are, but for FREE and EXECUTION; `custom` if none. `defaults`: Recipe's."""
    for name, changes in PRESETS.items():
        preset = {**defaults, **changes}
        if all(values[key] == preset[key] for key in preset.keys() - FREE - EXECUTION - {"preset"}):
            return name
    return "custom"
