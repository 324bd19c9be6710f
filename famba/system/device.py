"""The device a cell trains on, and the facts about it that a row must carry."""

import ctypes
import hashlib
import os
import platform
import resource
from contextlib import suppress
from importlib import metadata
from pathlib import Path

import torch

from famba.errors import InputError
from famba.results.row import Environment
from famba.system import container
from famba.system.host import cpu_name, nvidia_query, output_of

PACKAGES = ("torch", "triton", "mamba-ssm", "causal-conv1d", "timm", "torchvision", "numpy", "scikit-learn", "pillow")
ROOT = Path(__file__).resolve().parents[2]


def pick_device(requested: str) -> torch.device:
    """`auto` takes CUDA where there is one. Raises InputError for a `cuda` that is not there."""
    if requested == "cuda" and not torch.cuda.is_available():
        raise InputError(
            f"device: cuda asked for, but torch {torch.__version__} sees no CUDA device; "
            "see `famba doctor`, or set device: cpu"
        )
    if requested == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", torchrun_number("LOCAL_RANK", 0))


def torchrun_number(name: str, default: int) -> int:
    """A number that torchrun's environment has, such as RANK; unset or empty, the default. Raises InputError."""
    text = os.environ.get(name, "").strip()
    if not text:
        return default
    if not text.isdecimal():
        raise InputError(f"{name}={text!r} in the environment: expected a whole number, as torchrun sets; unset it")
    return int(text)


def environment(device: torch.device, world_size: int) -> Environment:
    """Everything about machine and software that a row records; null where it is unknown."""
    cuda = device.type == "cuda"
    gpu = _gpu_facts(device) if cuda else {}
    commit, dirty = _git()
    lock = Path(os.environ.get("FAMBA_LOCK", ROOT / "envs" / "requirements.txt"))  # an image names its own
    return Environment(
        device=torch.cuda.get_device_name(device) if cuda else cpu_name(),
        device_kind="cuda" if cuda else "cpu",
        device_memory=torch.cuda.get_device_properties(device).total_memory if cuda else None,
        clocks_mhz={key: int(gpu[key]) for key in ("clocks.sm", "clocks.mem") if gpu.get(key, "").isdigit()} or None,
        other_processes=other_gpu_processes(device) if cuda else None,
        driver=gpu.get("driver_version"),
        cpu=cpu_name(),
        threads=torch.get_num_threads(),
        world_size=world_size,
        python=platform.python_version(),
        packages={name: _version(name) for name in PACKAGES},
        lock_sha256=hashlib.sha256(lock.read_bytes()).hexdigest() if lock.is_file() else None,
        container_sha256=container.own_sha256(),
        git_commit=commit,
        git_dirty=dirty,
    )


def host_peak_bytes() -> int:
    """Largest resident set of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def reset_host_peak() -> bool:
    """Let `host_peak_bytes` count from what is resident now, freed memory given back; False where Linux forbids it."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # proc_pid_clear_refs(5)
    except OSError:
        return False
    return True


def energy_joules(device: torch.device) -> float | None:
    """The device's energy counter, in joules since it was started; None where it has none."""
    if device.type != "cuda":
        return None
    try:
        import pynvml  # noqa: PLC0415 (comes with CUDA environments only)

        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(_uuid(device))
        return pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1000
    except Exception:  # whatever the driver's library says: no counter
        return None


def _uuid(device: torch.device) -> str:
    """As the driver names a GPU."""
    return f"GPU-{torch.cuda.get_device_properties(device).uuid}"


def _version(package: str) -> str | None:
    with suppress(metadata.PackageNotFoundError):
        return metadata.version(package)
    return None


def _git() -> tuple[str | None, bool | None]:
    """Commit of the checkout and whether tracked files differ from it; (None, None) outside a checkout."""
    commit = output_of("git", "rev-parse", "HEAD", folder=ROOT)
    if commit is None:
        return None, None
    status = output_of("git", "status", "--porcelain", "--untracked-files=no", folder=ROOT)
    return commit, None if status is None else status != ""


def _gpu_facts(device: torch.device) -> dict[str, str]:
    fields = ("driver_version", "clocks.sm", "clocks.mem")
    lines = nvidia_query(f"gpu={','.join(fields)}", _uuid(device))
    return dict(zip(fields, (part.strip() for part in lines[0].split(",")), strict=False)) if lines else {}


def other_gpu_processes(device: torch.device) -> int | None:
    pids = nvidia_query("compute-apps=pid", _uuid(device))
    return None if pids is None else sum(pid.strip() != str(os.getpid()) for pid in pids)
