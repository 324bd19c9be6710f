"""The files beside rows by content: what is made from them records it, and is refused where they have changed."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from famba.files import open_regular
from famba.results.row import Row


def hashes(rows: Mapping[Path, Row], name: str) -> dict[str, str]:
    """sha256 of the file of this name beside each row that has one, by the row's id."""
    found = {}
    for path, row in sorted(rows.items(), key=lambda item: item[1].id):
        try:
            with open_regular(path.with_name(name)) as file:
                found[row.id] = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError:
            continue
    return found


def digest(rows: Mapping[Path, Row], name: str) -> str | None:
    """sha256 over these; None unless every row has such a file."""
    found = hashes(rows, name)
    return hashlib.sha256("\n".join(found.values()).encode()).hexdigest() if len(found) == len(rows) else None
