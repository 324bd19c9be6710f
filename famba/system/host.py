"""This machine without torch: its CPU's name, and its GPUs as the driver tells them.

torch is not asked because it may be a CPU build on a host with GPUs.
"""

from __future__ import annotations

import platform
import re
import subprocess
from pathlib import Path

from famba.errors import InputError


def cpu_name() -> str:
    """As Linux tells it; elsewhere, or where it does not, the architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def nvidia_gpus() -> list[str]:
    """Names of the NVIDIA GPUs that the driver lists; empty without a GPU, without a driver, and with a broken one."""
    return re.findall(r"^GPU \d+: (.+?) \(UUID", _nvidia_smi("-L"), flags=re.MULTILINE)


def nvidia_driver() -> str | None:
    """Version of the driver, None without one."""
    return _nvidia_smi("--query-gpu=driver_version", "--format=csv,noheader").partition("\n")[0] or None


def require_gpu() -> None:
    """Raises InputError, with what to do instead, on a machine without an NVIDIA GPU."""
    if not nvidia_gpus():
        raise InputError(
            "no NVIDIA GPU here (`nvidia-smi -L` lists none), and this experiment needs one: run it on a machine that "
            "has one; `make demo` needs none, and -n shows the plan"
        )


def _nvidia_smi(*options: str) -> str:
    try:
        return subprocess.run(
            ["nvidia-smi", *options], capture_output=True, text=True, timeout=30, check=True
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
