"""What each figure is called and what it shows: in its file, on the page and in Snakemake's report."""

from collections.abc import Mapping
from dataclasses import dataclass

from famba.text import SMOKE_NOTE


@dataclass(frozen=True)
class Caption:
    """`title`: a heading; `text`: what is drawn and how to read it."""

    title: str
    text: str


CAPTIONS: Mapping[str, Caption] = {
    "starting_layer": Caption(
        "By starting layer",
        "Top-1 accuracy, time and memory of upper by the layer that it starts to fuse in, counted from 1 as in the "
        "paper's Table 2; every later layer fuses as well. Time and memory are ratios to the model without fusion of "
        "the same seed, which is dashed. The paper's points stand beside rows of its own experiment only.",
    ),
    "tokens_per_layer": Caption(
        "By tokens per layer",
        "Top-1 accuracy, time and memory of upper from its first layer by the tokens that each layer fuses, as in the "
        "paper's Table 3. Where the layers of a scaled-down model differ by one token, the axis has their mean. Time "
        "and memory are ratios to the model without fusion of the same seed, which is dashed. The paper's points stand "
        "beside rows of its own experiment only.",
    ),
    "top1": Caption(
        "Accuracy",
        "Top-1 accuracy on the test set per model and fusion strategy, after the last epoch. Where the paper's "
        "published points are drawn, of the best epoch, as the paper reports it: chosen on the test set.",
    ),
    "time": Caption(
        "Training time",
        "Training time per model and fusion strategy, without evaluation and the first step of each run (compilation, "
        "allocation); and the median time of a step relative to the model without fusion, beside what the tokens that "
        "its layers see predict.",
    ),
    "memory": Caption(
        "Memory",
        "Peak memory per model and fusion strategy: the device's largest allocation on a GPU, the resident set of the "
        "process on a CPU; and, relative to the model without fusion, what the forward pass saves for the backward "
        "pass, beside what the tokens predict.",
    ),
    "accuracy_time": Caption(
        "Accuracy against time",
        "Top-1 accuracy after the last epoch against training time: up and to the left is better. Dashed: the Pareto "
        "front, strategies that no other one beats in both.",
    ),
    "accuracy_memory": Caption(
        "Accuracy against memory",
        "Top-1 accuracy after the last epoch against the device's peak memory, on a CPU against the activations saved "
        "for the backward pass: up and to the left is better. Dashed: the Pareto front, strategies that no other one "
        "beats in both.",
    ),
    "tokens": Caption(
        "Tokens per layer",
        "Tokens that each layer's mixer sees, the class token included: the strategy's schedule as a line, and as "
        "hollow markers what was measured in a forward pass of the trained model. The two agree, or the cell would "
        "have been refused, but where a threshold decides: there the schedule is a bound, and the markers are means "
        "over the test images. Layers count from 0.",
    ),
    "strategies": Caption(
        "Strategies",
        "The fusion strategies as they were trained: a box per layer, filled to the share of the tokens that its mixer "
        "sees. A layer that fuses is coloured and holds the number of tokens that it fuses away. On the right the "
        "tokens that are left at the end, and the mean over the layers, which time and memory should follow. Where a "
        "threshold decides, all of these are means over the test images, and the schedule is a bound.",
    ),
    "curves": Caption(
        "Training curves",
        "Top-1 accuracy on the test set and training loss over the epochs, per model and fusion strategy.",
    ),
    "similarity": Caption(
        "Where similar tokens are",
        "Cosine similarity of all pairs of patches in layers from the first to the last of a trained model that fuses "
        "none, mean over test images: the structure that all images share is what a schedule can use. Compared are the "
        "hidden states that the matching compares, after the layer's norm and before its mixer. Patches are in the "
        "order of the scan, row by row, so that parallels to the diagonal are patches above each other.",
    ),
    "best_match": Caption(
        "Best match by layer",
        "How similar a token is to its best partner, layer by layer: the mean over the tokens at even positions of the "
        "largest cosine similarity to a token at an odd position, which is the strength of the links that the matching "
        "sorts, whether they are fused or not. The class token takes part on neither side.",
    ),
    "fused_patches": Caption(
        "Fused patches",
        "Which patches of a test image each strategy has fused after some layers, from the first to the last, and how "
        "many tokens are left. Fused patches have the colour of the group that they end in, so that a patch keeps its "
        "colour from layer to layer; white lines part groups, and patches without a colour are not fused.",
    ),
}  # fmt: skip

AUDIT: Mapping[str, Caption] = {
    "memory": Caption(
        "Published against fitted memory",
        "Peak memory of the paper's trainings, published against fitted: a constant, the tokens that the mixers see "
        "and the tokens that enter a fusion, under the reading of the method that fits best.",
    ),
    "time": Caption(
        "Published time against tokens",
        "Time per epoch that the paper's Table 1 gives, against the mean share of tokens. The lines are least-squares "
        "fits; where they meet zero tokens is the part that does not depend on tokens.",
    ),
    "starting_layer": Caption(
        "Published top-1 by starting layer",
        "Top-1 accuracy that the paper's Table 2 gives for upper-layer fusion of Vim-Ti, by starting layer; the dashed "
        "line is Vim-Ti without fusion. One training each, best epoch on the test set.",
    ),
}

_LEADERBOARD = (
    "up and to the left is better. A mark is a line of the table and leads there; bars: 95 % intervals over seeds "
    "(Student t; none of n < 3). Dashed: the Pareto front."
)
LEADERBOARD: Mapping[str, Caption] = {
    "flops": Caption(
        "Accuracy against work",
        "Top-1 accuracy after the last epoch against the operations of a forward pass, the same on every machine: "
        + _LEADERBOARD,
    ),
    "step_ratio": Caption(
        "Accuracy against step time",
        "Top-1 accuracy after the last epoch against the time of a step, relative to the same machine's baseline: "
        + _LEADERBOARD,
    ),
}


def described(captions: Mapping[str, Caption], protocol: str = "") -> dict[str, str]:
    """The captions' texts by name, for Snakemake's report, where a figure stands without the others around it."""
    smoke = f" {SMOKE_NOTE}." if protocol == "smoke" else ""
    return {name: caption.text + smoke for name, caption in captions.items()}


GROWTH = Caption(
    "Growth with the tokens",
    "Time and memory against the length of the token sequence, with fusion and without: measured values, the straight "
    "lines fixed + per token * tokens that come nearest to them, and the distance from these; grey: a tenth. Step: a "
    "training step and the peak memory that it adds. Saved: what a forward pass saves for the backward pass. Matching: "
    "all of Famba-V's of a forward pass, quadratic in tokens.",
)

SEARCH = Caption(
    "Schedules that were found",
    "Predicted cost against accuracy of schedules that a search found for a trained model, without training, and of "
    "the paper's. Above: points of top-1 lost on training images, predicted by the sum over layers and measured on "
    "others. Below: top-1 on test images; lines join a found schedule to the paper's of the same cost.",
)
