"""The container image: whether it is there, what it is by content, and what Apptainer must be told to run it.

An image cannot hold its own sha256, so whoever makes a row inside one reads the image file, which Apptainer names.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from pathlib import Path

from famba.errors import InputError

_STARTED = time.time()


def require(image: str) -> None:
    """Raises InputError, one line that says how to get it, if `image` is a file and not there."""
    if "://" in image or Path(image).is_file():
        return
    own = re.fullmatch(r"envs/famba-(cpu|cuda)\.sif", image)
    get = f"envs/build.sh {own[1]} makes it (docs/containers.md)" if own else "`container` of the experiment names it"
    raise InputError(f"--use-singularity needs the image {image}, and it is not there: {get}; or leave the option out")


def variables(image: str, workdir: Path) -> dict[str, str]:
    """What to set for Apptainer, which under --cleanenv lets nothing else through.

    Inside, Snakemake makes the working directory the home. Kernels and font lists that would be kept there, in `.cache`
    and the like, go to `.snakemake/container`. An image and a folder FAMBA_DATA outside of the working directory are
    made visible, to be read.
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
    wanted = [Path(image).resolve(), *([Path(data)] if data else [])]
    outside = [path for path in wanted if path.exists() and not path.is_relative_to(workdir.resolve())]
    if outside:
        binds = [os.environ.get("APPTAINER_BIND"), *(f"{path}:{path}:ro" for path in outside)]
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
