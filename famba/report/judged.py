"""What `famba judge` wrote beside the page, read back and compared with the rows: the report judges nothing itself."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from famba.claims import tables
from famba.claims.digest import digest
from famba.claims.ledger import Ledger
from famba.claims.verdicts import Verdicts
from famba.config.validation import read_json
from famba.errors import InputError
from famba.files import read_text
from famba.results import epochs, pairs, predictions, targets
from famba.results.beside import hashes
from famba.results.pairs import Paired
from famba.results.row import Row
from famba.results.summary import Line, summarise
from famba.results.summary_table import rounded
from famba.results.targets import Targets

_HINT = "; run famba judge first, on the same rows and with the same --claims"


@dataclass(frozen=True)
class Judged:
    """What was judged, as numbers; `files`: the texts of all of it and of its tables, by name."""

    lines: list[Line]
    verdicts: Verdicts
    paired: Paired
    targets: Targets
    files: Mapping[str, str]


def read(folder: Path, rows: Mapping[Path, Row], ledger: Ledger) -> Judged:
    """Read it all. Raises InputError where a file is missing, damaged, or of other rows or another ledger."""
    path = folder / "claims.json"
    verdicts = read_json(Verdicts, path, "file of verdicts", absent=_HINT, invalid=_HINT)
    sources = {verdict.source for verdict in verdicts.verdicts}
    if verdicts.digest != digest(rows.values(), ledger) or not sources <= ledger.sources.keys():
        raise InputError(f"{path}: made from other rows or another ledger{_HINT}")
    paired = read_json(Paired, folder / pairs.NAME, "file of paired comparisons", absent=_HINT, invalid=_HINT)
    reached = read_json(Targets, folder / targets.NAME, "file of times", absent=_HINT, invalid=_HINT)
    made = (
        (paired.digest, pairs.NAME, paired.predictions, predictions.NAME),
        (reached.digest, targets.NAME, reached.metrics, epochs.NAME),
    )
    for found, name, read_then, beside in made:
        if found != verdicts.digest:
            raise InputError(f"{folder / name}: made from other rows or another ledger{_HINT}")
        # one that is no longer there cannot have changed: rows may be published without them
        changed = set() if read_then is None else hashes(rows, beside).items() - read_then.items()
        if changed:
            raise InputError(f"{folder / name}: made from another {beside} of {min(changed)[0]}{_HINT}")
    files = tables.files(rows, verdicts, paired, reached)
    for name, text in files.items():
        if read_text(folder / name, "what famba judge wrote", _HINT) != text:
            raise InputError(f"{folder / name}: differs from what famba judge writes for these rows{_HINT}")
    return Judged(rounded(summarise(rows)), verdicts, paired, reached, files)
