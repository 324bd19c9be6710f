"""Python processes that start without seconds of imports: forks of one that has imported torch and Snakemake.

They are real processes, for tests of what a process does: signals, locks, exit status, output. They import famba anew,
from the folder in which they run.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TextIO

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    ["torch", "torch._dynamo", "sklearn.datasets", "pydantic", "snakemake.cli", "snakemake_executor_plugin_slurm"]
)


class Warm:
    """`python -m MODULE ARGUMENT...`, started; the interface is a part of subprocess.Popen's.

    Args:
        module, arguments: of the command.
        folder: where it runs, and the first place from which it imports.
        env: the whole environment; None: this process's.
        together: standard error goes to standard output.
        new_session: the process leads a session of its own.
    """

    def __init__(
        self,
        module: str,
        arguments: Sequence[str],
        folder: Path,
        env: Mapping[str, str] | None = None,
        together: bool = False,
        new_session: bool = False,
    ) -> None:
        self.args = [sys.executable, "-m", module, *arguments]
        self._out = tempfile.NamedTemporaryFile("r+", encoding="utf-8")  # noqa: SIM115 (closed with this object)
        self._err = self._out if together else tempfile.NamedTemporaryFile("r+", encoding="utf-8")  # noqa: SIM115
        said = self._out.name, self._err.name
        given = dict(os.environ if env is None else env)
        self._process = _CONTEXT.Process(target=_run, args=(module, list(arguments), folder, given, said, new_session))
        self._process.start()
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit status, minus the signal's number if one ended it; None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end; kills the process and raises TimeoutExpired after that many seconds."""
        self._process.join(timeout)
        if self.returncode is None:
            self.kill()
            self._process.join()
            raise subprocess.TimeoutExpired(self.args, timeout, self._said(self._out), self._said(self._err))
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for the end; what was written to standard output and standard error."""
        self.wait(timeout)
        return self._said(self._out), self._said(self._err)

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self._process.kill()

    @staticmethod
    def _said(file: TextIO) -> str:
        file.seek(0)
        return file.read()


def run(
    module: str, *arguments: str, folder: Path, env: Mapping[str, str] | None = None, together: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run `python -m MODULE ARGUMENT...` to its end."""
    process = Warm(module, arguments, folder, env, together)
    out, err = process.communicate(timeout=300)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def _run(
    module: str, arguments: list[str], folder: Path, env: dict[str, str], said: tuple[str, str], new_session: bool
) -> None:
    """The process."""
    if new_session:
        os.setsid()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(env)
    for number, name in enumerate(said, start=1):
        file = os.open(name, os.O_WRONLY | os.O_APPEND)
        os.dup2(file, number)
        os.close(file)
    sys.path.insert(0, str(folder))
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
