"""Write the published JSON schemas: `python -m famba.schemas` after a change of config/, record.py or the ledger."""

from __future__ import annotations

import json
from pathlib import Path

from famba import record
from famba.audit import document
from famba.config import grid
from famba.judge import ledger
from famba.machine import built

FOLDER = Path(__file__).resolve().parents[1] / "config" / "schema"


def published() -> dict[Path, str]:
    """Path and text of each schema."""
    schemas = {
        "experiment.json": grid.json_schema(),
        "row.json": record.json_schema(),
        "claims.json": ledger.json_schema(),
        "audit.json": document.json_schema(),
        "built.json": built.json_schema(),
    }
    return {FOLDER / name: json.dumps(schema, indent=1, sort_keys=True) + "\n" for name, schema in schemas.items()}


if __name__ == "__main__":
    for path, text in published().items():
        path.write_text(text, encoding="utf-8")
