"""The RO-Crate of a finished experiment: the experiment's own folder, with a description of every file.

Beside ro-crate-metadata.json, which lists and describes its files, this writes workflow/: the experiment's settings,
the Snakefile with its rules, the lock of the environment, and the files of methods that famba has not.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path, PurePosixPath

import yaml

from famba.config import Experiment
from famba.config.methods import file_of
from famba.errors import InputError
from famba.files import atomic_file, read_bytes, read_text, write_text
from famba.report.leaderboard.contribution import CRATE
from famba.results.row import Row, read_row
from famba.training import status
from famba.workflow.rocrate import File, document, method_in_crate

ROOT = Path(__file__).resolve().parents[2]
LEFT_OUT = (".pt", ".log", ".part")  # weights and logs stay where they were made; so does status.json
REQUIRED = ("summary.csv", "claims.json")


def write_crate(experiment: Experiment, folder: Path) -> Path:
    """Describe the results in `folder`; returns the file written. The same results give the same bytes.

    Raises InputError: the experiment is not finished, or a row was made with other settings than its.
    """
    rows = _rows(experiment, folder)
    for name in REQUIRED:
        if not (folder / name).is_file():
            raise InputError(f"{folder / name} is missing: the experiment is not finished; run snakemake again")
    for path, text in _workflow(experiment):
        write_text(folder / path, text)
    _copy_methods(experiment, folder)
    citation = yaml.safe_load(_read(ROOT / "CITATION.cff"))
    try:
        snakemake = metadata.version("snakemake")
    except metadata.PackageNotFoundError:
        snakemake = None
    files = [_described(folder, path) for path in _parts(folder, rows)]
    described = document(experiment, rows, files, citation, snakemake)
    write_text(folder / CRATE, json.dumps(described, indent=1, ensure_ascii=False) + "\n")
    return folder / CRATE


def _rows(experiment: Experiment, folder: Path) -> dict[str, Row]:
    rows = {}
    for cell in experiment.cells():
        path = folder / "cells" / cell.id / "row.json"
        if not path.is_file():
            raise InputError(f"{path} is missing: the experiment is not finished; run snakemake again")
        rows[cell.id] = read_row(path)
        if rows[cell.id].cell != cell:
            raise InputError(f"{path}: made with other settings than those of {experiment.experiment} as it is here")
    return rows


def _workflow(experiment: Experiment) -> Iterator[tuple[PurePosixPath, str]]:
    """Path in the crate and text of what the results were made with."""
    folder = PurePosixPath("workflow")
    settings = yaml.safe_dump(experiment.model_dump(mode="json"), sort_keys=False, default_flow_style=None, width=120)
    yield folder / "experiment.yaml", settings
    for source in (ROOT / "Snakefile", *sorted((ROOT / "rules").glob("*.smk"))):
        yield folder / source.relative_to(ROOT).as_posix(), _read(source)
    yield folder / "requirements.txt", _read(ROOT / "envs" / "requirements.txt")


def _copy_methods(experiment: Experiment, folder: Path) -> None:
    """The files of methods, byte for byte, as rows record their sha256; none of a file that has changed since."""
    shutil.rmtree(folder / "workflow" / "methods", ignore_errors=True)
    for method in dict.fromkeys(cell.fusion.method for cell in experiment.cells()):
        if (path := file_of(method)) is not None:
            content = read_bytes(path)
            copy = folder / method_in_crate(path.name, hashlib.sha256(content).hexdigest())
            with atomic_file(copy, binary=True) as file:
                file.write(content)


def _read(path: Path) -> str:
    return read_text(path, "it", "; an RO-Crate is written in a checkout")


def _parts(folder: Path, rows: dict[str, Row]) -> list[PurePosixPath]:
    """All files of the experiment, less those of cells that are not, or no longer, in its grid."""
    paths = (PurePosixPath(path.relative_to(folder).as_posix()) for path in folder.rglob("*") if path.is_file())
    return sorted(
        path
        for path in paths
        if path.suffix not in LEFT_OUT
        and path.name != status.NAME
        and str(path) != CRATE
        and not any(part.startswith(".") for part in path.parts)
        and (path.parts[0] != "cells" or path.parts[1] in rows)
    )


def _described(folder: Path, path: PurePosixPath) -> File:
    content = (folder / path).read_bytes()
    return File(path, len(content), hashlib.sha256(content).hexdigest())
