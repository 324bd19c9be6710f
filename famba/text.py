"""Text that several commands and tables write alike: counts, names of models, durations, LaTeX, SMOKE_NOTE."""

import difflib
import re
from collections.abc import Iterable, Sequence
from typing import Any

_TEX = str.maketrans(
    {
        "\\": r"\textbackslash{}", "_": r"\_", "%": r"\%", "&": r"\&", "#": r"\#", "$": r"\$", "{": r"\{", "}": r"\}",
        "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "<": "$<$", ">": "$>$", "→": r"$\to$", "±": r"$\pm$",
        "×": r"$\times$", "–": "--", "−": "$-$",
    }
)  # fmt: skip
SMOKE_NOTE = "SMOKE: not evidence about the paper"
_MODELS = {"vim_tiny": "Vim-Ti", "vim_small": "Vim-S"}


def count(number: int, noun: str) -> str:
    """`1 row`, `3 rows`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def left_out(missing: Iterable[tuple[str, str]], noun: str) -> list[str]:
    """A line for each reason in (reason, name), with how many it left out and the names of the first."""
    names: dict[str, list[str]] = {}
    for reason, name in missing:
        names.setdefault(reason, []).append(name)
    return [
        f"{count(len(of), noun)} left out: {reason} ({', '.join(of[:4])}{f' and {len(of) - 4} more' if of[4:] else ''})"
        for reason, of in names.items()
    ]


def one_line(text: str) -> str:
    """The text on one line of a terminal: no line breaks or control characters, and none that cannot be printed."""
    encodable = " ".join(text.split()).encode("utf-8", "backslashreplace").decode("utf-8")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in encodable)


# what would be formatting, a link, HTML or another column
_MARKDOWN = re.compile(r"[\\`*|~$]|<(?=[A-Za-z/!?])|&(?=#?\w+;)|!(?=\[)|\](?=\()|(?<!\w)_|_(?!\w)")


def markdown(text: str) -> str:
    """Text as Markdown shows it, character by character, on one line: names and quotes come from files of anybody."""
    return _MARKDOWN.sub(lambda found: {"<": "&lt;", "&": "&amp;"}.get(found[0], f"\\{found[0]}"), one_line(text))


_COMPARED, _LISTED = 1000, 40  # names: comparing takes time, and a line is to be read


def nearest(name: str, known: Iterable[str], others: str | None = None) -> str:
    """`; did you mean 'x'?`, or the list of what there is; `others` in its place where that has been said."""
    known = list(known)
    if len(name) < 200 and (close := difflib.get_close_matches(name, known[:_COMPARED], n=1)):
        return f"; did you mean {close[0]!r}?"
    return f"; known: {listed(known)}" if others is None else others


def listed(names: Sequence[str]) -> str:
    """The names in a line, the first of very many."""
    more = len(names) - _LISTED
    return ", ".join(names[:_LISTED]) + (f" and {more:,} more" if more > 0 else "")


def six_digits(value: Any) -> Any:
    """A float rounded to six significant digits, as files for people have it; any other value as it is."""
    return float(f"{value:.6g}") if isinstance(value, float) else value


def install(extra: str) -> str:
    """How to get what pyproject.toml lists under an extra: famba is in no package index, only in its checkout."""
    by_hand = f"pip install '.[{extra}]' in the checkout"
    return by_hand if extra == "cuda" else f"make .venv/installed, or {by_hand}"


def model_name(model: str) -> str:
    """The paper's name of a model, or the one that the experiment gave it."""
    return _MODELS.get(model, model)


def clock(seconds: float) -> str:
    """h:mm:ss, or m:ss below an hour."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def time_unit(seconds: float) -> tuple[str, float]:
    """The unit that a person would choose for a duration, and its seconds."""
    return next(((unit, size) for unit, size in (("h", 3600.0), ("min", 60.0)) if seconds >= 2 * size), ("s", 1.0))


def plain(text: str) -> str:
    """Text as matplotlib draws it, character by character, on one line: a name between two $ would be a formula."""
    return one_line(text).replace("$", r"\$")


def tex(text: str) -> str:
    """Text as LaTeX sets it, in ASCII but for what has no command."""
    return text.translate(_TEX)
