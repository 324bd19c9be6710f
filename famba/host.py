"""The GPUs of this machine as the driver tells them: no torch asked, which may be a CPU build on a host with GPUs."""

from __future__ import annotations

import re
import subprocess

from famba.errors import CheckFailed


def nvidia_gpus() -> list[str]:
    """Names of the NVIDIA GPUs that the driver lists; empty without a GPU, without a driver, and with a broken one."""
    return re.findall(r"^GPU \d+: (.+?) \(UUID", _nvidia_smi("-L"), flags=re.MULTILINE)


def nvidia_driver() -> str | None:
    """Version of the driver, None without one."""
    return _nvidia_smi("--query-gpu=driver_version", "--format=csv,noheader").partition("\n")[0] or None


def require_gpu() -> None:
    """Raises CheckFailed, with what to do instead, on a machine without an NVIDIA GPU."""
    if not nvidia_gpus():
        raise CheckFailed(
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
