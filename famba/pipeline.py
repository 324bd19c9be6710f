"""What the Snakefile asks of the package: the experiment, and a refusal before anything is spent.

Snakemake itself answers for bad input here, so each function ends the program as the `famba` commands do: one line,
exit status 2 for bad input, 1 for a failed check. Nothing here imports torch: a run with nothing to do stays quick.
"""

from __future__ import annotations

import os
import shutil
import sys
from importlib import metadata
from pathlib import Path
from typing import Any, NoReturn

from snakemake.settings.types import DeploymentMethod

from famba.config import Experiment
from famba.errors import CheckFailed, InputError
from famba.host import require_gpu


def load_experiment(workflow: Any, config: dict[str, Any]) -> Experiment:
    """Snakemake's `config`, validated. Exits with one line about the first thing that is wrong.

    Jobs that run outside a container find this very Python first, so that `.venv/bin/snakemake` needs no activation.
    """
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    files = [os.path.relpath(path) for path in workflow.configfiles]
    try:
        experiment = Experiment.from_config(config, ", ".join(dict.fromkeys(files)))
        _require_apptainer(workflow)
    except (InputError, CheckFailed) as error:
        _stop(error)
    return experiment


def require_device(workflow: Any, experiment: Experiment) -> None:
    """Exit with one line if trainings would start on this machine, need a GPU, and there is none they could use."""
    if experiment.device != "cuda" or workflow.touch or not workflow.local_exec:
        return
    try:
        require_gpu()
        _require_cuda_torch(workflow)
    except CheckFailed as error:
        _stop(error)


def _containers(workflow: Any) -> bool:
    return DeploymentMethod.APPTAINER in workflow.deployment_settings.deployment_method


def _require_apptainer(workflow: Any) -> None:
    if _containers(workflow) and not (shutil.which("apptainer") or shutil.which("singularity")):
        raise CheckFailed(
            "--use-singularity needs Apptainer, and there is none here: install it (apptainer.org/docs/admin), "
            "or leave the option out; `make demo` needs neither container nor GPU"
        )


def _require_cuda_torch(workflow: Any) -> None:
    """Without a container the host's own torch trains, and a CPU build of it sees no GPU at all."""
    version = metadata.version("torch")
    if not _containers(workflow) and version.endswith("+cpu"):
        raise CheckFailed(f"torch {version} here is a CPU build: train in the container, with --use-singularity")


def _stop(error: InputError | CheckFailed) -> NoReturn:
    print(f"famba: error: {error}", file=sys.stderr)
    sys.exit(error.exit_code)
