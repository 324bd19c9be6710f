"""Write the published JSON schemas: `python -m famba.commands.schema` after a change of what they describe."""

import json
from pathlib import Path

from famba.claims import ledger
from famba.claims.audit.document import Document
from famba.config import experiment
from famba.results import row
from famba.system.built import Built

FOLDER = Path(__file__).resolve().parents[2] / "config" / "schema"


def published() -> dict[Path, str]:
    """Path and text of each schema."""
    schemas = {
        "experiment.json": experiment.json_schema(),
        "row.json": row.json_schema(),
        "claims.json": ledger.json_schema(),
        "audit.json": Document.model_json_schema(mode="serialization"),
        "built.json": Built.model_json_schema(mode="serialization"),
    }
    return {FOLDER / name: json.dumps(schema, indent=1, sort_keys=True) + "\n" for name, schema in schemas.items()}


if __name__ == "__main__":
    for path, text in published().items():
        path.write_text(text, encoding="utf-8")
