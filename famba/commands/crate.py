"""`famba crate`: what a finished experiment is made of and how it came about, as an RO-Crate."""

import argparse
from pathlib import Path

from famba.config import Experiment
from famba.config.validation import from_json
from famba.workflow.crate import write_crate


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`famba crate`."""
    parser.description = (
        "Write ro-crate-metadata.json into the folder of a finished experiment: its files with their "
        "hashes, every training with its software, data and container, the workflow, the paper. "
        "Example: famba crate results/smoke"
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="results of an experiment")
    parser.add_argument("--config", metavar="FILE", help="its file, or its settings as JSON [config/<DIR's name>.yaml]")


def main(args: argparse.Namespace) -> None:
    if args.config and args.config.lstrip().startswith("{"):
        experiment = Experiment.from_config(from_json(args.config, "--config"), "--config")
    else:
        experiment = Experiment.load(args.config or Path("config", f"{args.folder.resolve().name}.yaml"))
    print(write_crate(experiment, args.folder))
