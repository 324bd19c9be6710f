"""What the Snakefile asks of the package: the experiment, and a refusal before anything is spent.

Snakemake itself answers for bad input here, so each function ends the program as the `famba` commands do: one line,
exit status 2. Nothing here imports torch: a run with nothing to do stays quick.
"""

import os
import shlex
import shutil
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, NoReturn

import yaml
from snakemake.settings.types import DeploymentMethod
from snakemake.utils import update_config

from famba.claims import ledger
from famba.config import Experiment, yaml_file
from famba.config.datasets import data_folder
from famba.config.methods import PLACEMENTS
from famba.config.schedules import Own
from famba.errors import InputError
from famba.system import container
from famba.system.host import require_gpu
from famba.text import count
from famba.training.status import cell_state


def load_experiment(workflow: Any) -> Experiment:
    """The experiment that Snakemake was given, validated. Exits with one line about the first thing that is wrong.

    Snakemake's own `config` is not used: its reader is of YAML 1.1, where `010` is 8 and `1:30` is 90. The files are
    read by famba's, so that an experiment means the same here and in `famba train`.

    Jobs that run outside a container find this very Python first, so that `.venv/bin/snakemake` needs no activation.
    """
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    files = [os.path.relpath(path) for path in workflow.configfiles]
    settings: dict[str, Any] = {}
    try:
        for path in files:
            update_config(settings, Experiment.read(path))
        update_config(settings, _untyped_read(workflow.config_settings.config))
        experiment = Experiment.from_config(settings, ", ".join(dict.fromkeys(files)))
        experiment.require_claims()
        experiment.require_init()
        _require_settings_of_methods(experiment)
        if _containers(workflow):
            _require_container(experiment.container)
            os.environ |= container.variables(experiment.container, Path.cwd(), _data(experiment))
    except InputError as error:
        stop(error)
    return experiment


def ledger_files(experiment: Experiment) -> list[str]:
    """The files of the ledger that will judge the rows: a ledger that is wrong stops the run before it trains."""
    try:
        return [str(path) for path in ledger.files(Path(experiment.claims))]
    except InputError as error:
        stop(error)


def data_command(experiment: Experiment) -> str:
    """The shell command that verifies the data set, and fetches what famba knows where to get."""
    words = [experiment.dataset]
    if experiment.data is not None:
        words = [experiment.data.folder or experiment.dataset, "--manifest", experiment.data.manifest]
    named = shlex.join(words).replace("{", "{{").replace("}", "}}")
    return f"python -m famba data pull {named} --identity {{output}} 2>&1 | tee {{log}}"


def require_device(workflow: Any, experiment: Experiment) -> None:
    """Exit with one line if trainings would start on this machine, need a GPU, and there is none they could use.

    Or if they need several nodes; or would go to a cluster and do not say how many CPUs they take.
    """
    if workflow.touch:
        return
    try:
        if not workflow.local_exec:
            if experiment.device == "cpu" and experiment.threads is None:
                raise InputError("threads: a cluster has to know how many CPUs a training takes; set it")
            return
        if experiment.nodes > 1:
            raise InputError(f"nodes: {experiment.nodes} are only found on a cluster: --workflow-profile slurm")
        if experiment.device != "cuda":
            return
        require_gpu()
        _require_cuda_torch(workflow)
    except InputError as error:
        stop(error)


def name_unfinished(workflow: Any, experiment: Experiment) -> None:
    """Say at the end of a run that failed which cells have no row, and why: Snakemake's own words are pages."""
    if not workflow.is_main_process:
        return
    folder = Path("results", experiment.experiment, "cells")
    states = [cell_state(folder / cell.id) for cell in experiment.cells()]
    unfinished = [state for state in states if state.kind != "done"]
    if unfinished:
        print(f"famba: {count(len(unfinished), 'cell')} of {len(states)} without a row:", file=sys.stderr)
    for state in unfinished:
        print(f"  {state.end}", file=sys.stderr)


def _require_settings_of_methods(experiment: Experiment) -> None:
    """Raises InputError for a setting that a built-in method does not have. Others may be of a container alone."""
    for name, own in experiment.schedules.items():
        if isinstance(own, Own) and own.settings and own.method in PLACEMENTS:
            from famba.methods.names import build  # noqa: PLC0415 (imports torch)

            try:
                build(own.method, own.settings, own.placement)
            except InputError as error:
                raise InputError(f"{experiment.experiment}: schedules.{name}: {error}") from None


def _untyped_read(value: Any) -> Any:
    """What --config gave; Snakemake leaves every part of a list or mapping there a text, `[0, 1]` as well as `5e-4`."""
    if isinstance(value, Mapping):
        return {key: _untyped_read(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_untyped_read(part) for part in value]
    if not isinstance(value, str):
        return value
    try:
        return yaml_file.scalar(value)
    except yaml.YAMLError as error:
        raise InputError(f"--config: {error}") from None


def _data(experiment: Experiment) -> list[Path]:
    """The image folder that the experiment is on, and its manifest."""
    block = experiment.data
    return [] if block is None else [data_folder() / (block.folder or block.name), Path(block.manifest)]


def _containers(workflow: Any) -> bool:
    return DeploymentMethod.APPTAINER in workflow.deployment_settings.deployment_method


def _require_container(image: str) -> None:
    if not (shutil.which("apptainer") or shutil.which("singularity")):
        raise InputError(
            "--use-singularity needs Apptainer, and there is none here: install it (apptainer.org/docs/admin), "
            "or leave the option out; `make demo` needs neither container nor GPU"
        )
    container.require(image)


def _require_cuda_torch(workflow: Any) -> None:
    """Without a container the host's own torch trains, and a CPU build of it sees no GPU at all."""
    version = metadata.version("torch")
    if not _containers(workflow) and version.endswith("+cpu"):
        raise InputError(f"torch {version} here is a CPU build: train in the container, with --use-singularity")


def stop(error: InputError) -> NoReturn:
    """End the program as the `famba` commands do."""
    print(f"famba: error: {error}", file=sys.stderr)
    sys.exit(error.exit_code)
