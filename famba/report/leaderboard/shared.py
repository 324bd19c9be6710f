"""The published set: a folder of rows by names that their content gives, with a record of where each came from.

The folders under rows/ are all that there is to know; manifest.json and the page are made of them. So two copies of a
set are merged by copying, a row is withdrawn by deleting its folder, and identical rows in any order give identical
files.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from famba.errors import InputError
from famba.files import atomic_file
from famba.report.leaderboard.contribution import ORIGIN, PREDICTIONS, ROW, Contributed, Origins, labels, read
from famba.results.row import Row

ROWS, MANIFEST, PAGE = "rows", "manifest.json", "index.html"
Shared = Mapping[str, Contributed]  # by the name of a row's folder, sorted


def load(site: Path) -> dict[str, Contributed]:
    """The rows of a published set; none of a folder that is not there or has none yet.

    Raises InputError: a row is damaged, or the folder has another page.
    """
    if not (site / ROWS).is_dir():
        if site.exists() and not site.is_dir():
            raise InputError(f"{site}: not a folder; a published set is one")
        if (site / PAGE).exists():
            raise InputError(f"{site}: has an {PAGE} and no {ROWS}/, so it is no published set; name another folder")
        return {}
    if not any((site / ROWS).glob(f"*/{ROW}")):
        return {}
    rows, refused = read(site / ROWS, None)
    if refused:
        raise InputError(f"{refused[0]}; restore the published file, or delete its folder to withdraw the row")
    return merged(rows)


def merged(rows: Iterable[Contributed]) -> dict[str, Contributed]:
    """Each row once, with everybody who contributed it; whatever their order, the result is the same.

    Of other files than the row itself, a row may come with several versions that say the same: one of them stays.
    """
    found: dict[str, Contributed] = {}
    for one in rows:
        name = name_of(one.row)
        known = found.get(name, one)
        files = {
            file: min((of.files[file] for of in (known, one) if file in of.files), key=_sha256)
            for file in sorted({*known.files, *one.files})
        }
        origins = sorted({*known.origins, *one.origins}, key=lambda origin: origin.model_dump_json())
        found[name] = Contributed(known.row, files, tuple(origins))
    return dict(sorted(found.items()))


def name_of(row: Row) -> str:
    """A row's folder: its cell, and the beginning of its digest.

    The digest is of the values and not of the file, so that an unset field that a later version adds changes nothing.
    """
    return f"{row.id}-{_sha256(row.model_dump_json(exclude_defaults=True).encode())[:12]}"


def write(site: Path, rows: Shared) -> None:
    """Write the rows, each with its files and origins, and the manifest; files that are there already are left alone.

    Raises InputError.
    """
    for name, one in rows.items():
        contents = {ROW: _row_json(one.row), **one.files}
        record = Origins(origins=one.origins, sha256={file: _sha256(content) for file, content in contents.items()})
        contents[ORIGIN] = (record.model_dump_json(indent=1) + "\n").encode()
        for file, content in contents.items():
            write_bytes(site / ROWS / name / file, content)
    text = json.dumps({"version": 1, "rows": list(map(_listed, rows, rows.values()))}, indent=1, ensure_ascii=False)
    write_bytes(site / MANIFEST, (text + "\n").encode("utf-8", "backslashreplace"))


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole, unless it has this content. Raises InputError."""
    try:
        if path.read_bytes() == content:
            return
    except OSError:
        pass  # it is not there yet; what else is wrong, writing it says
    with atomic_file(path, binary=True) as file:
        file.write(content)


def _row_json(row: Row) -> bytes:
    return (row.model_dump_json(indent=1) + "\n").encode()


def _listed(name: str, one: Contributed) -> dict[str, Any]:
    """A row's entry in the manifest: what it is, where it came from, and with what it was made."""
    row, cell, environment = one.row, one.row.cell, one.row.environment
    return {
        "path": f"{ROWS}/{name}/{ROW}",
        "sha256": {file: _sha256(content) for file, content in {ROW: _row_json(row), **one.files}.items()},
        "origins": [origin.model_dump() for origin in one.origins],
        "labels": labels(row, PREDICTIONS in one.files),
        "cell": {
            "experiment": cell.experiment, "protocol": cell.protocol, "model": cell.model, "strategy": cell.strategy,
            "schedule": cell.schedule, "seed": cell.seed,
        },
        "method": {
            "name": cell.fusion.method, "settings": cell.fusion.settings, "placement": cell.fusion.placement,
            "order": cell.fusion.order, "code": cell.fusion.code,
        },
        "initial_weights": row.init.model_dump(),
        "data": {
            "name": row.data.name, "official": row.data.official, "train_digest": row.data.train_digest,
            "test_digest": row.data.test_digest,
        },
        "environment": environment.model_dump(),
        "scan": row.scan.backend,
        "started": row.started,
        "finished": row.finished,
    }  # fmt: skip


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
