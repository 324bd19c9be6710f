"""Where and with what the rows were made, and how to reproduce them."""

import json
import re
import shlex
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from famba.results.row import Row

UNKNOWN = "not recorded"


@dataclass(frozen=True)
class Fact:
    """A property of the environment: each value there is, and the rows that have it where there are several."""

    name: str
    values: Sequence[tuple[str, Sequence[Row]]]


def facts(rows: Sequence[Row]) -> list[Fact]:
    """Where and with what the rows were made."""
    found, missing = [], []
    for name, get in _FACTS.items():
        by_value: dict[str, list[Row]] = {}
        for row in rows:
            by_value.setdefault(get(row) or UNKNOWN, []).append(row)
        if [*by_value] == [UNKNOWN]:
            missing.append(name)
            continue
        several = len(by_value) > 1
        found.append(Fact(name, [(value, having if several else []) for value, having in by_value.items()]))
    return [*found, Fact(UNKNOWN, [(", ".join(missing), [])])] if missing else found


def _bytes(value: int | None) -> str | None:
    return None if value is None else f"{value / 2**30:.1f} GiB"


def _dirty(row: Row) -> str | None:
    return {True: "uncommitted changes", False: "clean", None: None}[row.environment.git_dirty]


_FACTS: dict[str, Callable[[Row], str | None]] = {
    "device": lambda r: f"{r.environment.world_size} × {r.environment.device}",
    "device memory": lambda r: _bytes(r.environment.device_memory),
    "driver": lambda r: r.environment.driver,
    "clocks": lambda r: ", ".join(f"{k} {v} MHz" for k, v in (r.environment.clocks_mhz or {}).items()),
    "other processes on the device": lambda r: (
        None if r.environment.other_processes is None else str(r.environment.other_processes)
    ),
    "CPU": lambda r: f"{r.environment.cpu}, threads in use: {r.environment.threads}",
    "selective scan": lambda r: f"{r.scan.backend}: {r.scan.reason}",
    "data": lambda r: (
        f"{r.data.name}, {r.data.train:,} training and {r.data.test:,} test images, {r.data.source}"
        f"{'' if r.data.official else ' (not the official files)'}"
    ),
    "data, sha256 of the files": lambda r: r.data.sha256,
    "training images and labels, digest": lambda r: r.data.train_digest,
    "test images and labels, digest": lambda r: r.data.test_digest,
    "Python": lambda r: r.environment.python,
    "packages": lambda r: ", ".join(f"{k} {v}" for k, v in r.environment.packages.items() if v),
    "lock file, sha256": lambda r: r.environment.lock_sha256,
    "container, sha256": lambda r: r.environment.container_sha256,
    "commit": lambda r: r.environment.git_commit,
    "working tree": _dirty,
}


def commands(rows: Sequence[Row]) -> list[str]:
    """How to reproduce every whole experiment, with the settings of its crate, and compare."""
    commit = _commit(rows)
    contained = " --use-singularity" if any(row.environment.container_sha256 for row in rows) else ""
    lines = [f"git checkout {commit}"] if re.fullmatch("[0-9a-f]{7,64}", commit or "") else []  # it is to be pasted
    for name in experiments(rows):
        again = f"{name}-again"
        lines += [
            f"cp results/{name}/workflow/experiment.yaml {again}.yaml",
            f"snakemake --cores all{contained} --configfile {again}.yaml --config experiment={again}",
            f"famba reproduce results/{name}/cells/*/row.json --with results/{again}/cells/*/row.json",
        ]
    return lines


def experiments(rows: Iterable[Row]) -> list[str]:
    """The names of those that the rows are of, each once, in their order."""
    return list(dict.fromkeys(row.cell.experiment for row in rows))


def revision(rows: Sequence[Row]) -> str:
    """Of which code the rows are, as far as it is known, in a sentence."""
    found = {row.environment.git_commit for row in rows}
    dirty = sum(row.environment.git_dirty is True for row in rows)
    if commit := _commit(rows):
        said = f"All rows were made at commit {commit}"
    elif found == {None}:
        return "The rows do not say which commit made them: it was no git checkout."
    else:
        short = ", ".join(sorted(commit[:10] if commit else "unknown" for commit in found))
        said = f"The rows were made at several commits ({short}); each row has its own"
    if dirty:
        return f"{said}, {dirty} of them with uncommitted changes, which no commit contains."
    return f"{said}."


def _commit(rows: Sequence[Row]) -> str | None:
    """The commit of all rows; None where it is unknown or they are of several."""
    commits = {row.environment.git_commit for row in rows}
    return commits.pop() if len(commits) == 1 else None


def command(row: Row) -> str:
    """How to reproduce one training."""
    cell = json.dumps(row.cell.model_dump(mode="json"), separators=(",", ":"))
    return f"famba train --cell {shlex.quote(cell)} --out {row.id}/row.json"
