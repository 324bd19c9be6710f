"""The files of the paired comparisons: paired.csv with every number, and tables/paired.md and .tex for people."""

from collections.abc import Iterator
from dataclasses import replace

from famba.results.anchors import line_href
from famba.results.pairs import Pair, Paired
from famba.results.tables import DASH, SMALL, Column, Entry, Table, csv_of, difference, table
from famba.text import count, model_name, six_digits

_STRATEGIES = (
    "Mean over seeds of the difference in top-1 after the last epoch, on the same test images, with its 95 % interval "
    "over seeds and images. Both count as samples, as readers and cases do in multi-reader multi-case studies "
    "(Obuchowski and Rockette 1995; degrees of freedom by Hillis 2007); the scatter of a training is pooled over the "
    "strategies of its model. Standard error: the part that training with another seed changes, and the part that "
    "other images change for all seeds alike. Holm: p adjusted for all pairs of strategies of one model. Networks: "
    "seeds in which the two networks differ (McNemar, 5 % after Holm); another seed gives other networks."
)
_NETWORKS = (
    "Two networks trained with one seed, after the last epoch, on the same {images:,} test images. Only one right: "
    "images that only the strategy's network classifies correctly, and only the other. 95 % interval over images "
    "(Agresti and Min 2005). p: exact McNemar test; Holm: adjusted for all pairs of one model and seed. The test asks "
    "whether these two trained networks differ on images of this kind, not whether the strategies do: another seed "
    "gives other networks."
)


def strategies_table(paired: Paired, run: str) -> Table:
    """A line for each two strategies that more than one seed compares. `run`: what was run."""
    several = [pair for pair in paired.pairs if len(pair.networks) > 1]
    unknown = dict.fromkeys(pair.unknown for pair in several if pair.unknown)
    columns = (
        Column("model"), Column("strategy"), Column("minus"), Column("n", "r"),
        Column("top-1 difference", "r", "points [95 %]"), Column("standard error", "r", "seeds, images"),
        Column("p", "r"), Column("Holm", "r"), Column("networks", "r"),
    )  # fmt: skip
    return table(
        columns, [_strategies(pair, paired.alpha) for pair in several], id="paired-strategies", run=run,
        note=_STRATEGIES, caption="Strategies on the same test images, over seeds", smoke=bool(paired.watermark),
        grouped=True, size=SMALL, sentences=[f"No interval: {why}." for why in unknown],
    )  # fmt: skip


def _strategies(pair: Pair, alpha: float) -> list[Entry | str]:
    over, networks = pair.over_seeds, pair.networks
    differ = sum(one.p_holm <= alpha for one in networks)
    p, adjusted = (over.p, over.p_holm) if over else (None, None)
    mean = over.difference if over else sum(one.difference for one in networks) / len(networks)
    return [
        *_who(pair),
        Entry(str(len(networks)), len(networks)),
        difference(mean, (over.low, over.high) if over else None, "{:.2f}".format),
        Entry(f"{over.se_seeds:.2f}, {over.se_images:.2f}" if over else DASH),
        *(_p(p), _p(adjusted)),
        Entry(f"{differ} of {len(networks)}", differ),
    ]


def networks_table(paired: Paired, run: str) -> Table:
    """A line for each two networks of one model and seed. `run`: what was run."""
    columns = (
        Column("model"), Column("strategy"), Column("minus"), Column("seed", "r"), Column("only one right", "r"),
        Column("top-1 difference", "r", "points [95 %]"), Column("p", "r"), Column("Holm", "r"),
    )  # fmt: skip
    lines = [
        [
            *_who(pair),
            Entry(str(one.seed), one.seed),
            Entry(f"{one.only_strategy}, {one.only_against}"),
            difference(one.difference, (one.low, one.high), "{:.2f}".format),
            *(_p(one.p), _p(one.p_holm)),
        ]
        for pair in paired.pairs
        for one in pair.networks
    ]
    return table(
        columns, lines, id="paired-networks", run=run, note=_NETWORKS.format(images=paired.images), grouped=True,
        caption="Networks on the same test images, seed by seed", smoke=bool(paired.watermark), size=SMALL,
    )  # fmt: skip


def tables(paired: Paired, run: str) -> list[Table]:
    """Strategies over seeds where there are several, then networks seed by seed; the first has the sentences."""
    over_seeds, networks = strategies_table(paired, run), networks_table(paired, run)
    first, *others = [over_seeds, networks] if over_seeds.lines else [networks]
    return [replace(first, sentences=[*first.sentences, *_sentences(paired)]), *others]


def csv(paired: Paired) -> str:
    """Every number of every comparison: `mcnemar` of one seed, `crossed` over all seeds of a pair and over images."""
    counts, numbers = ("only_strategy", "only_against"), ("difference", "low", "high", "p", "p_holm")
    parts = ("se_seeds", "se_images", "df")
    lines: list[list[object]] = [["model", "strategy", "against", "test", "seeds", *counts, *numbers, *parts]]
    for pair in paired.pairs:
        who = [pair.model, pair.strategy, pair.against]
        for one in pair.networks:
            found = [getattr(one, name) for name in (*counts, *numbers)]
            lines.append([*who, "mcnemar", one.seed, *found, *[""] * len(parts)])
        if over := pair.over_seeds:
            seeds = " ".join(str(one.seed) for one in pair.networks)
            lines.append([*who, "crossed", seeds, "", "", *(getattr(over, name) for name in (*numbers, *parts))])
    return csv_of(lines)


def _who(pair: Pair) -> list[Entry]:
    return [
        Entry(model_name(pair.model)),
        *(Entry(name, href=line_href(pair.model, name)) for name in (pair.strategy, pair.against)),
    ]


def _p(p: float | None) -> Entry:
    return Entry(DASH) if p is None else Entry(f"{p:.2g}", six_digits(p))


def _sentences(paired: Paired) -> Iterator[str]:
    """The control, and what was left out."""
    for same in paired.same_strategy:
        yield (
            f"{model_name(same.model)}: of {count(same.pairs, 'pair')} of networks that differ only in their seed, "
            f"McNemar's test calls {same.differ} different (5 %, not adjusted)."
        )
    yield from (f"{line}." for line in paired.left_out)
