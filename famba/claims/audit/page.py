"""The audit in words: audit.md, and the few lines that the command prints."""

from famba.claims.audit.document import Document
from famba.claims.audit.epoch_time import EpochTime
from famba.claims.audit.memory import Memory, MemoryReading
from famba.claims.audit.statements import Statement
from famba.results.tables import Column, table
from famba.text import markdown as escaped
from famba.text import model_name

SHIFTS = {-1: "one layer earlier", 0: "as printed", 1: "one layer later"}


def findings(document: Document) -> str:
    """The main findings, one line each."""
    memory, times = document.memory, document.time
    best = memory.best
    other = min(one.rms_mib for one in memory.readings if one.placement != best.placement)
    lines = [
        f"Memory: the {memory.trainings} Vim-Ti rows fit fusion {best.placement} the mixer (rms {best.rms_mib:.0f} "
        f"MiB; the other placement {other:.0f} MiB at best).",
        *(
            f"Time: {t.fixed_s_per_epoch:.0f} s of {model_name(model)}'s epoch do not depend on tokens "
            f"({t.fixed_share:.0%}); upper saved {t.upper_saves:.0%}, and would save at most "
            f"{t.upper_would_save_without_the_fixed_part:.0%} without that part."
            for model, t in times.items()
        ),
        _counted(document.claims),
        *(
            f"  {c.id}. {c.statement} Exceptions: {_few(c.exceptions)}."
            for c in document.claims
            if c.borne_out is False
        ),
        *(f"  {c.id}. {' '.join(c.remarks)}" for c in document.claims if c.borne_out is None),
    ]
    return "\n".join(lines) + "\n"


def markdown(document: Document) -> str:
    """A page for readers who have never seen the project. Ends in a newline."""
    memory, small = document.memory, document.memory_vim_small
    parts = [
        "# What the paper's own tables say",
        f"Source: {escaped(document.source.strip().removeprefix('the paper: '))}. Nothing was trained for this page: "
        "it only compares published numbers with each other. The paper gives one training per row and no spread, so a "
        "difference between two rows includes the unknown scatter between seeds.",
        "## In short",
        "\n".join(f"* {escaped(line)}" for line in findings(document).splitlines()),
        "## Memory: where the tokens were fused",
        "Peak memory of a training is well described by a constant, a part in proportion to the tokens that the "
        "mixers see, summed over layers, and a small part for tokens that enter a fusion. The text, the figures and "
        "the released code leave several readings of the method, and each gives different sums of tokens. The table "
        f"has the residual of a least-squares fit to the {memory.trainings} Vim-Ti trainings for each reading.",
        _readings(memory.readings),
        _best(memory),
        _floats(memory),
        f"Vim-S has {small.trainings} trainings for three coefficients, which is weak evidence. Its best reading is "
        f"fusion {small.best.placement} the mixer, starting layer {SHIFTS[small.best.start_shift]}, `lower` in "
        f"{small.best.lower_layers} layers (rms {small.best.rms_mib:.0f} MiB): `upper` then has 18 layers, as in the "
        "released script `lower-merge-r9-l5`, and not the 19 of the text and of `lower-merge-r9-l4`.",
        "![Measured against fitted memory](memory.svg)",
        "## Time: what fusion could save",
        "Time per epoch of the five rows of Table 1 is fitted as a fixed part plus a part in proportion to the "
        "tokens, with the layers of the paper's text (19 for `lower` and `upper`).",
        _times(document.time),
        _time_words(document.time),
        "![Time per epoch against tokens](time.svg)",
        "## The paper's statements and its tables",
        "The statements are in our words. The thresholds of b and f are ours and serve this page only: measured rows "
        "are judged by config/claims.yaml, against the published numbers.",
        _claims(document.claims),
        "![Top-1 against starting layer](starting_layer.svg)",
    ]
    return "\n\n".join(parts) + "\n"


def _best(memory: Memory) -> str:
    best, support = memory.best, memory.support
    names = {"placement": "placement", "start_shift": "starting layer", "lower_layers": "number of layers of `lower`"}
    same = ", ".join(
        f"{support[key].left_out[0]} of {support[key].left_out[1]} choose the same {name}"
        for key, name in names.items()
    )
    shares = ", ".join(f"{support[key].resampled:.0%}" for key in names)
    return (
        f"The best reading is fusion {best.placement} the mixer, starting layer {SHIFTS[best.start_shift]}, `lower` "
        f"in {best.lower_layers} layers. The paper's overview figure draws fusion inside the mixer, its section 3.2 "
        "applies it to both SSMs, and its text has 19 layers for `lower`. Leave-one-out: of the refits that can "
        f"distinguish, {same}. Bootstrap, in the same order: {shares} of the resamples."
    )


def _floats(memory: Memory) -> str:
    low, high = memory.mib_per_token_interval
    return (
        f"Each token costs {memory.best.mib_per_token:.2f} MiB per layer (95 % bootstrap interval {low:.2f} to "
        f"{high:.2f}). If each GPU held 128 images, as in the released scripts, that is "
        f"{memory.floats_per_channel:.1f} float32 values per token, layer and channel. Counted by hand, the released "
        f"block saves {memory.floats_per_channel_released:.1f} for the backward pass (not confirmed by running it); "
        "this project's own block with mamba-ssm's kernels, by its cost model, "
        f"{memory.floats_per_channel_this_project:.1f}. The memory column is therefore consistent with the released "
        "kind of block, with fusion, at 128 images per GPU."
    )


def _counted(claims: list[Statement]) -> str:
    asked = [one for one in claims if one.borne_out is not None]
    held = sum(one.borne_out is True for one in asked)
    return f"Statements: {held} of {len(asked)} agree with the paper's own tables in every row."


def _few(texts: list[str], most: int = 2) -> str:
    rest = len(texts) - most
    return "; ".join(texts[:most]) + (f"; and {rest} more" if rest > 0 else "")


def _readings(readings: list[MemoryReading]) -> str:
    columns = (
        Column("fusion"), Column("starting layer of upper"), Column("layers of lower", "r"), Column("rms (MiB)", "r"),
    )  # fmt: skip
    lines = [
        (f"{one.placement} the mixer", SHIFTS[one.start_shift], str(one.lower_layers), f"{one.rms_mib:.1f}")
        for one in readings
    ]
    return table(columns, lines).markdown


def _times(times: dict[str, EpochTime]) -> str:
    numbers = (
        "fixed (s)", "in proportion to tokens (s)", "rms (s)", "upper saved", "upper without the fixed part, at most",
    )  # fmt: skip
    lines = [
        (
            model_name(model), f"{t.fixed_s_per_epoch:.1f}", f"{t.token_s_per_epoch:.1f}", f"{t.rms_s:.2f}",
            f"{t.upper_saves:.1%}", f"{t.upper_would_save_without_the_fixed_part:.1%}",
        )
        for model, t in times.items()
    ]  # fmt: skip
    return table([Column("model"), *(Column(name, "r") for name in numbers)], lines).markdown


def _time_words(times: dict[str, EpochTime]) -> str:
    tiny, small = times["vim_tiny"], times["vim_small"]
    every = tiny.with_fusing
    sums, maxima = ((tiny.overlap_rms_s[key], small.overlap_rms_s[key]) for key in ("0.00", "1.00"))
    return (
        f"All {every.trainings} Vim-Ti rows, under the reading that their memory supports and with a part for the "
        f"tokens that enter a fusion, give {every.fixed_s_per_epoch:.1f} s fixed, {every.token_s_per_epoch:.1f} s for "
        f"tokens and {every.fusing_s_per_epoch:.1f} s for fusing (rms {every.rms_s:.2f} s): because fusing "
        "itself costs time, the last column is an upper bound. The fixed part is about the same for both "
        "models, so it does not belong to the model. If it were the loading of images, it would be "
        f"{tiny.images_per_s_if_fixed_is_loading:,.0f} images/s. The split is a model too: a fixed part that overlaps "
        "with the tokens' part fits worse the more it overlaps (without a part for fusing, rms for a sum "
        f"{sums[0]:.2f} and {sums[1]:.2f} s, for a maximum {maxima[0]:.2f} and {maxima[1]:.2f} s; Vim-Ti over all its "
        "rows, Vim-S over five). Vim-Ti's rows cannot distinguish overlaps up to one half.\n\nThe number of GPUs is "
        f"not published. The tokens' part of Vim-S stands for {small.images_per_s_of_the_token_part:,.0f} images/s in "
        f"training. Published inference on one A100 is {small.inference_images_per_s_one_a100} images/s (fp32, batch "
        "128; NVlabs/MambaVision, issue 13), and a training step costs about three forward passes: about "
        f"{small.gpus_implied:.0f} GPUs. The released scripts use four."
    )


def _claims(claims: list[Statement]) -> str:
    lines = []
    for one in claims:
        said = {True: "yes", False: "not in every row", None: "observation"}[one.borne_out]
        more = [f"{_few(one.exceptions, 4)}."] if one.exceptions else []
        found = " ".join([said + ".", *more, *one.remarks])
        lines.append((one.id, f"{one.statement} ({one.where})", one.interpretation, found))
    wide = (Column(name, wide=0.3) for name in ("statement", "compared", "in the tables"))
    return table([Column(""), *wide], lines).markdown
