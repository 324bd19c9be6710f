"""CPU time: what a training has cost the processor, however often a neighbour took the processor from it."""

import multiprocessing
import os
import time
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds() -> float:
    """CPU seconds that this process has used so far, with all its threads and the processes that it has started.

    Of the latter, those that have ended and been waited for, and the live ones of multiprocessing (data loaders), which
    only Linux reports.
    """
    times = os.times()
    live = sum(_of_process(child.pid) for child in multiprocessing.active_children() if child.pid)
    return time.process_time() + times.children_user + times.children_system + live


def _of_process(pid: int) -> float:
    """CPU seconds of another process and its ended children; 0 where they cannot be read."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return 0.0
    after_name = stat.rpartition(")")[2].split()  # the name may hold spaces; `after_name` starts at field 3
    return sum(map(int, after_name[11:15])) / _TICKS  # fields 14 to 17: utime, stime, cutime, cstime
