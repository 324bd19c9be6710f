"""What a group contributes: a folder, an RO-Crate or a zip archive of one, every row in it checked.

A row that cannot be trusted is refused. One whose numbers stand, but which nobody can repeat to the bit, is published
with a label that says so.
"""

import hashlib
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Annotated
from urllib.parse import unquote

from pydantic import AfterValidator, BaseModel, Field

from famba.checks.rules import RULES, Absent, Beside, NotApplicable
from famba.config.validation import Strict, read_json
from famba.errors import InputError
from famba.files import LARGEST_TEXT, open_regular, read_bytes
from famba.results import predictions
from famba.results.row import Row, Sha256, read_row
from famba.text import one_line

ROW, EPOCHS, PREDICTIONS, ORIGIN = "row.json", "epochs.csv", predictions.NAME, "origin.json"
CRATE = "ro-crate-metadata.json"
COPIED = (ROW, EPOCHS, PREDICTIONS)
_LARGEST = 2**32  # bytes of all rows in an archive
# what was computed must be what the row says; how well it can be repeated is told beside it
REQUIRED = ("trace", "data", "protocol", "scratch", "float32", "finite", "warm_up", "curve", "predicted")
TOLD = {"exclusive": "GPU perhaps shared", "container": "no container"}
Line = Annotated[str, AfterValidator(one_line)]  # other people's words, as the page and its figures can show them


class Origin(Strict):
    """Where a row came from: whose it is, the folder or archive, and the row's path in it.

    `crate`: sha256 of the RO-Crate's metadata that the row was compared with; null where there was none.
    """

    source: Annotated[Line, Field(min_length=1, max_length=200)]
    within: Line
    path: Line
    crate: Sha256 | None


class Origins(Strict):
    """origin.json, beside a published row: everybody who contributed it, and the sha256 of its other files."""

    origins: Annotated[tuple[Origin, ...], Field(min_length=1)]
    sha256: dict[str, Sha256]


@dataclass(frozen=True)
class Contributed:
    """A row that was accepted. `files`: the bytes of its epochs.csv and, where there is one, predictions.npz."""

    row: Row
    files: Mapping[str, bytes]
    origins: tuple[Origin, ...]


class _Part(BaseModel):
    """What is read of an entity of an RO-Crate."""

    id: Annotated[str, Field(alias="@id")]
    sha256: str | None = None


class _Crate(BaseModel):
    graph: Annotated[list[_Part], Field(alias="@graph")]


def read(place: Path, source: str | None) -> tuple[list[Contributed], list[str]]:
    """The rows of a folder or zip archive, at any depth, and a line on each that is refused.

    `source`: whose rows these are; those of a published set bring that along.

    Raises InputError: nothing there to read, no row in it, or nobody named for rows that do not say.
    """
    accepted, refused = [], []
    with _opened(place) as folder:
        paths = sorted(path for path in folder.rglob(ROW) if not _hidden(path.relative_to(folder)))
        if not paths:
            raise InputError(f"{place}: no {ROW} in it; name the folder of an experiment that has been run")
        for path in paths:
            try:
                accepted.append(_read(path, folder, place.resolve().name, source))
            except InputError as error:
                refused.append(str(error).replace(str(folder), str(place)))
    if source is None and any(not one.origins for one in accepted):
        raise InputError(f"{place}: whose rows are these? Say who and where: --source 'NAME, PLACE'")
    return accepted, refused


def labels(row: Row, has_predictions: bool) -> list[str]:
    """What a reader must know of a row that is published."""
    environment = row.environment
    found = []
    if environment.git_commit is None or environment.git_dirty is None:
        found.append("commit not recorded")
    elif environment.git_dirty:
        found.append("uncommitted changes")
    if not row.data.official:
        found.append("not the official images")
    at = Beside(Path(), row, {})
    found += [label for rule, label in TOLD.items() if _broken(rule, at)]
    return found if has_predictions else [*found, "no predictions"]


@contextmanager
def _opened(place: Path) -> Iterator[Path]:
    """The folder itself, or what there is of rows in an archive, unpacked for as long as it is read."""
    if place.is_dir():
        yield place
        return
    with TemporaryDirectory() as folder:
        try:
            _unpack(place, Path(folder))
        except (OSError, zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError, EOFError) as error:
            reason = (error.strerror if isinstance(error, OSError) else None) or error
            raise InputError(f"{place}: neither a folder nor a zip archive that can be read ({reason})") from None
        yield Path(folder)


def _unpack(archive: Path, folder: Path) -> None:
    """Files by these names alone, and no path leads out of the folder: zipfile sees to that."""
    with open_regular(archive) as file, zipfile.ZipFile(file) as members:
        wanted = [m for m in members.infolist() if PurePosixPath(m.filename).name in (*COPIED, ORIGIN, CRATE)]
        if large := next((m for m in wanted if m.file_size > LARGEST_TEXT), None):
            raise zipfile.BadZipFile(f"{large.filename} has {large.file_size:,} bytes")
        if (total := sum(m.file_size for m in wanted)) > _LARGEST:
            raise zipfile.BadZipFile(f"its rows have {total:,} bytes")
        members.extractall(folder, wanted)


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _read(path: Path, folder: Path, within: str, source: str | None) -> Contributed:
    """Raises InputError where the row is refused."""
    row = read_row(path)
    if row.watermark:
        raise InputError(f"{path}: a smoke row shows that the pipeline works and is no result; it is not published")
    at = Beside(path, row, {path: row})
    for name in REQUIRED:
        if problem := _broken(name, at):
            raise InputError(f"{path}: breaks the rule {name} of famba check --rules: {problem}")
    try:
        everything = {name: read_bytes(path.with_name(name)) for name in COPIED if path.with_name(name).exists()}
    except OSError as error:
        raise InputError(f"{path.parent}: cannot be read ({error.strerror})") from None
    files = {name: content for name, content in everything.items() if name != ROW}
    found = {name: hashlib.sha256(content).hexdigest() for name, content in everything.items()}
    if path.with_name(ORIGIN).exists():
        known = read_json(Origins, path.with_name(ORIGIN), "record of a published row")
        _compare(path, found, known.sha256, ORIGIN)
        return Contributed(row, files, known.origins)
    crate = next((up / CRATE for up in _upwards(path.parent, folder) if (up / CRATE).is_file()), None)
    if crate is not None:
        _compare(path, found, _listed(crate, path.parent), CRATE)
    if source is None:
        return Contributed(row, files, ())
    digest = None if crate is None else hashlib.sha256(crate.read_bytes()).hexdigest()
    where = Origin(source=source, within=within, path=path.relative_to(folder).as_posix(), crate=digest)
    return Contributed(row, files, (where,))


def _broken(name: str, at: Beside) -> str | None:
    """What breaks a rule of `famba check --rules`, None where nothing does or there is nothing to apply it to."""
    try:
        return RULES[name](at)
    except (NotApplicable, Absent):
        return None
    except InputError as error:
        return str(error)


def _upwards(start: Path, end: Path) -> Iterator[Path]:
    """A folder and those around it, as far as `end`."""
    yield start
    for parent in start.parents:
        if parent == end.parent:
            return
        yield parent


def _listed(crate: Path, folder: Path) -> dict[str, str]:
    """The sha256 that an RO-Crate gives of the files in one of its folders."""
    described = read_json(_Crate, crate, "RO-Crate", invalid="; run famba crate again")
    prefix = folder.relative_to(crate.parent).as_posix() + "/"
    known = {unquote(part.id): part.sha256 for part in described.graph if part.sha256}
    return {name.removeprefix(prefix): digest for name, digest in known.items() if name.startswith(prefix)}


def _compare(path: Path, found: Mapping[str, str], recorded: Mapping[str, str], by: str) -> None:
    """Raises InputError for a file that is not the recorded one, or not recorded."""
    for name in sorted(found.keys() | (recorded.keys() & {*COPIED})):
        if name not in recorded:
            raise InputError(f"{path.with_name(name)}: not listed in {by}; write that anew when the rows are final")
        if found.get(name) != recorded[name]:
            raise InputError(f"{path.with_name(name)}: not the file that {by} lists (another sha256, or missing)")
