"""The host's memory without torch: what this process can have, and whether the kernel has killed for want of it."""

import re
import resource
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

_CGROUPS = Path("/sys/fs/cgroup")


def available_bytes() -> int | None:
    """Memory that this process can have, what it holds now included; None where the system is not Linux.

    The least of what is free, the limits of its control groups (a SLURM job, a container) and `ulimit -v`.
    """
    own, machine = process_memory(), _kilobytes("/proc/meminfo")
    if "VmRSS" not in own or "MemAvailable" not in machine:
        return None
    resident = own["VmRSS"]
    limits = [machine["MemAvailable"] + resident, *_cgroup_limits()]
    addresses, _ = resource.getrlimit(resource.RLIMIT_AS)
    if addresses != resource.RLIM_INFINITY:  # libraries are mapped, and hardly resident
        limits.append(addresses - (own["VmSize"] - resident))
    return max(0, min(limits))


def process_memory() -> dict[str, int]:
    """What Linux says of this process's memory, in bytes: VmRSS is resident, VmSize mapped (proc_pid_status(5))."""
    return _kilobytes("/proc/self/status")


def oom_kills() -> int | None:
    """Processes that the kernel has killed for lack of memory since it started; None where it does not say."""
    found = re.search(r"^oom_kill (\d+)$", _text("/proc/vmstat"), flags=re.MULTILINE)
    return int(found[1]) if found else None


def _cgroup_limits() -> Iterator[int]:
    """Of this process's control group and those above it, in version 1 and 2; a container sees its own as the root."""
    for line in _text("/proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        folder, file = (_CGROUPS / controllers, "memory.limit_in_bytes") if controllers else (_CGROUPS, "memory.max")
        group = PurePosixPath(path.lstrip("/"))
        for part in (group, *group.parents):
            text = _text(folder / part / file).strip()
            if text.isdecimal():  # not `max`
                yield int(text)


def _kilobytes(path: str) -> dict[str, int]:
    """The lines `Name:  123 kB` of a file of Linux, in bytes."""
    return {name: int(size) * 1024 for name, size in re.findall(r"(?m)^(\w+):\s+(\d+) kB$", _text(path))}


def _text(path: str | Path) -> str:
    try:
        return Path(path).read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
