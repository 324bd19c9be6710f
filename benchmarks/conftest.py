"""What all benchmarks share: interleaved references, the device's roof, and the facts about machine and software."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch

from famba import ops
from famba.system.device import environment
from famba.system.malloc import keep_freed_memory

CPU = torch.device("cpu")
Run = Callable[[], Any]


@pytest.fixture(autouse=True)
def _as_in_training() -> None:
    """Seeded; and nobody's time goes to page faults, neither the subject's nor the references'."""
    torch.manual_seed(0)
    keep_freed_memory()


@pytest.fixture(scope="session")
def backend() -> str:
    """The fastest scan of this machine's CPU."""
    return ops.choose(CPU).name


@pytest.fixture
def versus(benchmark: Any) -> Callable[..., dict[str, float]]:
    """Benchmark a run against references of the same minutes.

    `versus(run, references, rounds)` times each reference once before every round of the run, `slow` ones (by name)
    once in all. `roof` is something else with `runs` that takes its turns, a `Probe` or `Probes`. It returns median
    seconds of all, the run's under "subject", and stores each reference's ratio to it.
    """

    def compare(
        run: Run, references: dict[str, Run], rounds: int = 7, slow: tuple[str, ...] = (), roof: Any = None
    ) -> dict[str, float]:
        others = {**references, **(roof.runs if roof else {})}
        times: dict[str, list[float]] = {name: [] for name in others}
        for other in others.values():  # none is timed cold
            other()

        def turn() -> None:
            for name, other in others.items():
                if name not in slow or not times[name]:
                    began = time.perf_counter()
                    other()
                    times[name].append(time.perf_counter() - began)

        benchmark.pedantic(run, setup=turn, rounds=rounds, warmup_rounds=1)
        seconds = {name: statistics.median(values) for name, values in times.items() if values}
        seconds["subject"] = benchmark.stats.stats.median
        for name in references:
            benchmark.extra_info[f"ratio_{name}"] = round(seconds[name] / seconds["subject"], 3)
            benchmark.extra_info[f"ms_{name}"] = round(seconds[name] * 1e3, 3)
        return seconds

    return compare


def pytest_benchmark_update_machine_info(config: Any, machine_info: dict[str, Any]) -> None:
    """The same facts that a result row carries; not the name of the machine, nor a page of CPU flags."""
    machine_info.pop("node", None)
    machine_info.get("cpu", {}).pop("flags", None)
    machine_info["famba"] = environment(CPU, 1).model_dump()
