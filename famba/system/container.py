"""The container image: whether it is there, what it is by content, and the settings with which Apptainer runs it.

An image cannot hold its own sha256, so whoever makes a row inside one reads the image file, which Apptainer names.
"""

import hashlib
import math
import os
import re
import time
from collections.abc import Sequence
from pathlib import Path

from famba.errors import InputError
from famba.system import built
from famba.text import count

_STARTED = time.time()


def require(image: str) -> None:
    """Raises InputError, one line that says how to get it, if `image` is a file and not there."""
    if "://" in image or Path(image).is_file():
        return
    own = re.fullmatch(r"envs/famba-(cpu|cuda)\.sif", image)
    get = f"{how_to_build(own[1])}, docs/containers.md" if own else "`container` of the experiment names it"
    raise InputError(f"--use-singularity needs the image {image}, and it is not there: {get}; or leave the option out")


def how_to_build(image: str) -> str:
    """The command for the "cpu" or the "cuda" image, with the size and the processor time of the recorded build."""
    command = f"envs/build.sh {image}"
    try:
        record = built.read(image, Path.cwd())
    except InputError:  # outside of a checkout
        return f"{command} makes it"
    size, minutes = record.file.bytes / 2**20, math.ceil(record.build.cpu_seconds / 60)
    return f"{command} makes it ({size:,.0f} MiB; {count(minutes, 'minute')} of processor time)"


def variables(image: str, workdir: Path, read: Sequence[Path] = ()) -> dict[str, str]:
    """What to set for Apptainer, which under --cleanenv lets nothing else through.

    Inside, Snakemake makes the working directory the home. Kernels and font lists that would go to `.cache` there
    and the like go to `.snakemake/container`. An image, a folder FAMBA_DATA and what else is `read` are made visible
    where they lie outside of the working directory, and where a link to them stands. Nothing else of the host can be
    written: /tmp and /var/tmp are folders of `.snakemake`, but for a working directory that lies below them itself.
    """
    caches = workdir / ".snakemake" / "container"
    data = os.environ.get("FAMBA_DATA")
    data = str(Path(data).resolve()) if data else None
    inside = {
        "XDG_CACHE_HOME": caches,
        "MPLCONFIGDIR": caches / "matplotlib",
        "TRITON_CACHE_DIR": caches / "triton",
        "CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES"),  # a scheduler's share of a node
        "FAMBA_DATA": data,
    }
    found = {f"APPTAINERENV_{name}": str(value) for name, value in inside.items() if value}
    if not any(workdir.resolve().is_relative_to(shared) for shared in ("/tmp", "/var/tmp")):
        found |= {"APPTAINER_CONTAIN": "1", "APPTAINER_WORKDIR": str(workdir / ".snakemake")}
    wanted = [Path(image).resolve(), *([Path(data)] if data else [])]
    wanted += [place for path in read for place in (path.absolute(), path.resolve())]
    outside = [path for path in dict.fromkeys(wanted) if path.exists() and not path.is_relative_to(workdir.resolve())]
    if outside:
        binds = [os.environ.get("APPTAINER_BIND"), *(f"{path.resolve()}:{path}:ro" for path in outside)]
        found["APPTAINER_BIND"] = ",".join(filter(None, binds))
    return found


def own_sha256() -> str | None:
    """sha256 of the image that this process runs in, in hex; about two seconds per GB.

    None outside of one, and where its file cannot be seen or is no longer the one that this process was started from:
    then, and for containers of another kind, FAMBA_CONTAINER_SHA256 is believed.
    """
    image = Path(os.environ.get("SINGULARITY_CONTAINER", ""))  # set by Apptainer, too: the host's path
    if image.is_file() and image.stat().st_mtime < _STARTED:
        with open(image, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    return os.environ.get("FAMBA_CONTAINER_SHA256") or None
