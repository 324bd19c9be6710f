"""The command line: `famba …` = `python -m famba …`.

Exit status 0 ok, 1 a check failed, 2 bad input or something missing here; either way one line says what, where and what
to do.
"""

import argparse
import os
import sys
import textwrap
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NoReturn

from famba import __version__
from famba.errors import CheckFailed, InputError, Stopped
from famba.text import one_line

# each is famba/commands/<name>.py, which is only imported where it is called
COMMANDS = {
    "train": "train one cell of an experiment and write its result row",
    "evaluate": "evaluate any checkpoint under any strategies and methods, without training",
    "search": "find cheaper schedules for a trained model, without training",
    "export": "write a checkpoint under a strategy as safetensors or as a torch.export program",
    "judge": "summarise result rows and judge the published claims on them",
    "audit": "compare the paper's published numbers with each other, without any training",
    "check": "compare rows with a frozen baseline, another protocol or the written rules",
    "reproduce": "retrain rows from their record and report field by field what agrees",
    "crate": "describe a finished experiment as an RO-Crate",
    "figures": "draw the figures of an experiment from its rows",
    "report": "write the results of an experiment as one page",
    "publish": "merge rows of several machines into one set with a leaderboard page",
    "watch": "show the progress of all cells of an experiment while they train",
    "data": "fetch, verify or show a data set",
    "plan": "predict time and memory of an experiment's cells before anything is spent",
    "methods": "list the methods of token reduction, or check that one keeps its contract",
    "bench": "compare each part of a training step with the most that the device can do",
    "doctor": "say what this machine has, what is missing, and how to get it",
}


class _Help(argparse.HelpFormatter):
    """Breaks lines between words only: the name of a cell has hyphens, and is to be copied."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        wrapped = textwrap.wrap(" ".join(text.split()), width - len(indent), break_on_hyphens=False)
        return textwrap.indent("\n".join(wrapped), indent)


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, as everything here does, and not behind the usage."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"formatter_class": _Help, **options})

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {' '.join(message.split())}; see {self.prog} --help\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    argv = sys.argv[1:] if argv is None else list(argv)
    parser = _Parser(prog="famba", description="The reproducibility benchmark suite for Famba-V.")
    parser.add_argument("--version", action="version", version=f"famba {__version__}")
    parser.set_defaults(func=lambda _: parser.print_help())
    commands = parser.add_subparsers(metavar="command")
    if argv and argv[0] in COMMANDS:
        command = import_module(f"famba.commands.{argv[0]}")
        its_parser = commands.add_parser(argv[0])
        command.add_arguments(its_parser)
        its_parser.set_defaults(func=command.main)
    else:  # help, or a name that is none: argparse answers both from the names alone
        for name, line in COMMANDS.items():
            commands.add_parser(name, help=line)
    args = parser.parse_args(argv)
    try:
        return args.func(args) or 0
    except (InputError, CheckFailed) as error:
        print(f"famba: error: {error}", file=sys.stderr)
        return error.exit_code
    except (MemoryError, RuntimeError) as error:  # of what no command says better
        from famba.cost import memory  # noqa: PLC0415 (torch, which is loaded where it has failed)

        if not memory.ran_out(error):
            raise
        line = one_line(memory.told(f"famba {argv[0]}", error, memory.lack(error)))
        print(f"famba: error: {line}", file=sys.stderr)
        return InputError.exit_code
    except Stopped as stop:
        print(f"famba: {stop}", file=sys.stderr)
        return stop.exit_code
    except KeyboardInterrupt:
        print("famba: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has left, as `famba … | head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
