"""The digest of rows and ledger: `famba judge` and `famba figures` write it into their files, `famba report` compares.

A cell that was trained again has another row, even with the same accuracy: start, end and times are in it.
"""

import hashlib
from collections.abc import Iterable

from famba.claims.ledger import Ledger
from famba.results.row import Row


def digest(rows: Iterable[Row], ledger: Ledger) -> str:
    """sha256 of the rows, sorted by cell, and of the ledger with the tables that it includes.

    Of their values, not of their files: a comment, or another folder, gives the same digest.
    """
    found = hashlib.sha256()
    for record in (*sorted(rows, key=lambda row: row.id), ledger):
        found.update(record.model_dump_json(exclude_defaults=True).encode() + b"\n")
    return found.hexdigest()
