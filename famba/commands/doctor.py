"""`famba doctor`: what this machine has, what is missing, and how to get it.

It never fails for what is not there; with --require that is what it is asked for.
"""

import argparse
import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module, metadata
from pathlib import Path

from famba.config.datasets import DATA_HELP, data_folder
from famba.errors import InputError
from famba.system import container
from famba.system.host import cpu_name, nvidia_driver, nvidia_gpus, output_of, require_gpu, usable_cpus
from famba.text import count, install

PACKAGES = {  # what each is for, and how to get it where it is missing
    "torch": "make demo, which sets up the environment",
    "mamba-ssm": f"only with CUDA, for the mamba_ssm scan: {install('cuda')}, or the container",
    "causal-conv1d": f"only with CUDA, with mamba-ssm: {install('cuda')}, or the container",
    "triton": "only with CUDA; comes with torch's CUDA build",
    "timm": f"for the paper protocol's RandAugment: {install('paper')}",
    "snakemake": f"for the pipeline: {install('pipeline')}",
    "dvc": f"for data and results: {install('pipeline')}",
    "seaborn": f"for the figures: {install('pipeline')}",
}


@dataclass(frozen=True)
class Item:
    """One line of the report. `get` says how to get what is missing; None where nothing is."""

    name: str
    what: str
    get: str | None = None


def report(data_root: Path) -> dict[str, list[Item]]:
    """All findings, by section, in the order in which a person would ask for them."""
    return {
        "Machine": list(_machine()),
        "Selective scan (float32)": list(_scans()),
        "Software": list(_software()),
        "Data": list(_data(data_root)),
    }


def _machine() -> Iterator[Item]:
    yield Item("cpu", f"{cpu_name()}, {usable_cpus()} of {os.cpu_count()} cores usable")
    gpus = nvidia_gpus()
    for index, gpu in enumerate(gpus):
        yield Item(f"gpu {index}", f"{gpu}, driver {nvidia_driver()}")
    if not gpus:
        yield Item("gpu", "none", "an NVIDIA GPU, for config/paper.yaml: on another machine")
    try:
        torch = import_module("torch")
    except ImportError as error:
        yield Item("torch", f"cannot be imported ({error})", PACKAGES["torch"])
        return
    if torch.cuda.is_available():
        yield Item(
            "torch", f"{torch.__version__}, CUDA {torch.version.cuda}, sees {count(torch.cuda.device_count(), 'GPU')}"
        )
    elif gpus:
        yield Item(
            "torch",
            f"{torch.__version__}, sees no GPU",
            "a CUDA build of torch that suits the driver, or the container",
        )
    else:
        yield Item("torch", f"{torch.__version__}, on the CPU")


def _scans() -> Iterator[Item]:
    try:
        torch, scan = import_module("torch"), import_module("famba.scan")
        for device in ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]:
            choice = scan.choose(device)
            yield Item(f"on {device}", f"auto takes {choice.name}: {choice.reason}")
            for name, runs, reason in scan.available(device):
                yield Item(f"  {name}", reason if runs else f"no: {reason}")
    except (ImportError, OSError, InputError) as error:
        yield Item("scan", f"cannot be checked ({error})", PACKAGES["torch"])


def _software() -> Iterator[Item]:
    yield Item("python", platform.python_version())
    for package, get in PACKAGES.items():
        try:
            yield Item(package, metadata.version(package))
        except metadata.PackageNotFoundError:
            yield Item(package, "not installed", get)
    version = _first_line("apptainer", "--version") or _first_line("singularity", "--version")
    yield Item(
        "apptainer", version or "not installed", None if version else "for --use-singularity: apptainer.org/docs/admin"
    )
    for name, use in (("cpu", "config/smoke.yaml"), ("cuda", "GPUs")):
        image = Path("envs", f"famba-{name}.sif")
        if image.is_file():
            yield Item(image.name, f"{image.stat().st_size / 2**20:,.0f} MiB")
        else:
            yield Item(image.name, "not built", f"for --use-singularity with {use}: {container.how_to_build(name)}")
    compiler = shutil.which("c++") or shutil.which("g++")
    yield Item("c++ compiler", compiler or "none", None if compiler else "for compiled scans: apt-get install g++")


def _data(root: Path) -> Iterator[Item]:
    try:
        data = import_module("famba.data")
    except (ImportError, OSError) as error:
        yield Item("data", f"cannot be checked ({error})", PACKAGES["torch"])
        return
    for name in data.NAMES:
        try:
            found = data.verify(name, root)
        except (InputError, ImportError) as error:
            yield Item(name, "not usable", str(error))
        else:
            standing = "verified" if found.official else "verified, NOT the published one (FAMBA_SOURCES)"
            yield Item(name, f"{standing}: {found.train:,} + {found.test:,} images from {found.source}")


def _first_line(*command: str) -> str | None:
    return (output_of(*command) or "").partition("\n")[0] or None


def _require_cuda() -> None:
    """Raises InputError unless a GPU is here and this Python's torch can use it."""
    require_gpu()
    try:
        torch = import_module("torch")
    except ImportError as error:
        raise InputError(f"torch cannot be imported ({error}): {PACKAGES['torch']}") from None
    if not torch.cuda.is_available():
        raise InputError(
            f"{nvidia_gpus()[0]} is here, but torch {torch.__version__} cannot use it: train in the container, with "
            "--use-singularity, or install a CUDA build of torch that suits the driver"
        )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`famba doctor`."""
    parser.description = "What this machine has, what is missing, and how to get it."
    parser.add_argument("--require", choices=["cuda"], help="check only this, and exit with 2 if it is not there")
    parser.add_argument("--data", type=Path, default=data_folder(), metavar="DIR", help=DATA_HELP)


def main(args: argparse.Namespace) -> None:
    if args.require == "cuda":
        _require_cuda()
        print(", ".join(nvidia_gpus()))
        return
    sections = report(args.data)
    width = max(len(finding.name) for findings in sections.values() for finding in findings)
    for title, findings in sections.items():
        print(f"{title}\n" + "".join(f"  {f.name:<{width}}  {f.what}\n" for f in findings))
    missing = [finding for findings in sections.values() for finding in findings if finding.get]
    print("Missing, and how to get it" if missing else "Nothing is missing.")
    for finding in missing:
        print(f"  {finding.name:<{width}}  {finding.get}")
