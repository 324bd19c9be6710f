"""This machine without torch: its CPUs, and its NVIDIA GPUs as nvidia-smi reports them.

torch is not asked because it may be a CPU build on a host with GPUs.
"""

import os
import platform
import re
import subprocess
from pathlib import Path

from famba.errors import InputError


def cpu_name() -> str:
    """As Linux reports it; elsewhere, or where it does not, the architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def usable_cpus() -> int:
    """CPUs that this process may run on; all of the machine's where the system does not say."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def process_exists(pid: int) -> bool:
    """Whether a process of this machine has not ended; a zombie has."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        pass
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()[0]
    except (OSError, IndexError):  # only Linux has it
        return True
    return state not in ("Z", "X")


def nvidia_gpus() -> list[str]:
    """Names of the NVIDIA GPUs that the driver lists; empty without a GPU, without a driver, and with a broken one."""
    return re.findall(r"^GPU \d+: (.+?) \(UUID", output_of("nvidia-smi", "-L") or "", flags=re.MULTILINE)


def nvidia_driver() -> str | None:
    """Version of the driver, None without one."""
    return next(iter(nvidia_query("gpu=driver_version") or []), None)


def require_gpu() -> None:
    """Raises InputError, with what to do instead, on a machine without an NVIDIA GPU."""
    if not nvidia_gpus():
        raise InputError(
            "no NVIDIA GPU here (`nvidia-smi -L` lists none), and this experiment needs one: run it on a machine that "
            "has one; `make demo` needs none, and -n shows the plan"
        )


def nvidia_query(what: str, gpu: str | None = None) -> list[str] | None:
    """Lines of `nvidia-smi --query-<what>`, bare values between commas; None where it is missing or fails.

    gpu: the UUID of the only GPU to ask.
    """
    only = [f"--id={gpu}"] if gpu else []
    printed = output_of("nvidia-smi", *only, f"--query-{what}", "--format=csv,noheader,nounits")
    return None if printed is None else printed.splitlines()


def output_of(*command: str, folder: Path | None = None) -> str | None:
    """What a short command prints, run in `folder`; None if it is missing or fails."""
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
