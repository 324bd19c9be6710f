"""CPU time: of work and not of waiting, of child processes alive and ended."""

import multiprocessing
import time

from famba.system.cpu_time import cpu_seconds


def burn(seconds: float) -> None:
    """Until that much CPU time is used, however long it takes."""
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass


def waits_after_work(ready, release) -> None:
    burn(0.2)
    ready.set()
    release.wait()


def test_cpu_time_is_of_work_and_not_of_waiting():
    before, wall = cpu_seconds(), time.perf_counter()
    time.sleep(0.5)
    assert cpu_seconds() - before < (time.perf_counter() - wall) / 2
    burn(0.1)
    assert cpu_seconds() - before >= 0.1


def test_cpu_time_counts_processes_that_are_alive_and_those_that_have_ended():
    context = multiprocessing.get_context("fork")
    ready, release = context.Event(), context.Event()
    before = cpu_seconds()
    child = context.Process(target=waits_after_work, args=(ready, release))
    child.start()
    ready.wait()
    alive = cpu_seconds() - before
    release.set()
    child.join()
    assert alive >= 0.19  # read in ticks of 10 ms
    assert cpu_seconds() - before >= alive
