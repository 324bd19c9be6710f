"""What one training asks of a cluster: GPUs, CPUs, memory, time; and how it is started on several nodes.

Snakemake reads this for every job, so torch is imported only where a job is about to be submitted.
"""

import math
import os
import shlex
import shutil
from functools import partial
from typing import Any

from snakemake.settings.types import DeploymentMethod

from famba.config import Cell, Experiment
from famba.flops import step_cost

HEADROOM = 2.0  # of the time limit over the prediction, which is arithmetic: no GPU has confirmed it yet
START_MINUTES = 15  # imports over a network file system, compilation of kernels, reading the data
ASSUMED_GPU = "a100"  # where the profile names no GPU, or one that the cost model does not know

# MiB of host memory, assumed: what a process that drives a GPU takes, and each of its loading processes
_GPU_PROCESS_MB = 8_000
_WORKER_MB = 1_000
# of a process that trains on the CPU, beside what the cost model counts
_CPU_PROCESS_MB = 2_000
_ALL_CPUS = 1024  # more than there are: Snakemake takes what the machine has


def threads(experiment: Experiment) -> int:
    """CPUs of one training on each of its nodes.

    On a CPU it takes all of them unless its threads are set, so that its times mean something; on GPUs those of the
    loading processes and of the training itself.
    """
    here = experiment.processes // experiment.nodes
    if experiment.device != "cpu":
        return here * (_workers(experiment) + 1)
    return _ALL_CPUS if experiment.threads is None else here * experiment.threads


def resources(workflow: Any, experiment: Experiment) -> dict[str, Any]:
    """Snakemake's resources of one training, under the names that the SLURM plugin knows.

    `gpu` counts all its GPUs; `mem_mb` and the CPUs are those of each node. `runtime`, in minutes, is only there for
    GPUs, where the cost model can predict it: a training on CPUs takes the profile's.
    """
    here = experiment.processes // experiment.nodes
    gpu = experiment.device != "cpu"
    asked: dict[str, Any] = {"gpu": experiment.processes if gpu else 0, "mem_mb": partial(_memory_mb, experiment)}
    default = (workflow.resource_settings.default_resources or {}).get("gpu_model")
    named = default.raw if default else None
    if not gpu:
        asked["gpu_model"] = None
    else:
        asked["runtime"] = partial(_minutes, workflow, experiment, str(named))
    if experiment.nodes > 1:  # the plugin leaves the start on all nodes to the command if MPI is set
        asked |= {"mpi": "srun", "nodes": experiment.nodes, "tasks": experiment.nodes, "tasks_per_gpu": 0}
        if gpu:
            asked["slurm_extra"] = f"--gpus-per-node={f'{named}:' if named else ''}{here}"
    return asked


def command(workflow: Any, experiment: Experiment, one: str) -> str:
    """The shell command of a training: `one` as it is, or started by srun once on each of its nodes.

    srun is the host's, so there it starts the container, not Snakemake.
    """
    if experiment.nodes == 1:
        return one
    nodes = experiment.nodes
    deployment = workflow.deployment_settings
    image = ""
    if DeploymentMethod.APPTAINER in deployment.deployment_method:
        binary = "apptainer" if shutil.which("apptainer") else "singularity"
        home = shlex.quote(os.getcwd())
        args = deployment.apptainer_args.replace("{", "{{").replace("}", "}}")
        image = f"{binary} exec --home {home} {args} {shlex.quote(experiment.container)} "
    start = f"srun --nodes={nodes} --ntasks={nodes} --ntasks-per-node=1 --cpus-per-task={{threads}} --kill-on-bad-exit"
    # this shell runs on the first of the nodes; two trainings on one node must not meet
    return f"{start} {image}{one} --rendezvous $(hostname):$((20000 + SLURM_JOB_ID % 20000))"


def _cell(experiment: Experiment, wildcards: Any) -> Cell:
    return experiment.cell(wildcards.model, wildcards.strategy, int(wildcards.seed))


def _workers(experiment: Experiment) -> int:
    """Loading processes of a training, the most that a recipe of the grid has."""
    return max(recipe.workers for recipe in experiment.recipes)


def _memory_mb(experiment: Experiment, wildcards: Any) -> int:
    """Host memory on each node."""
    if experiment.device == "cpu":
        step = step_cost(_cell(experiment, wildcards), experiment.sizes.classes)
        process = _CPU_PROCESS_MB + HEADROOM * step.peak_bytes / 1e6
    else:
        process = _GPU_PROCESS_MB + _WORKER_MB * _workers(experiment)
    return math.ceil(process * experiment.processes / experiment.nodes)


def _minutes(workflow: Any, experiment: Experiment, gpu: str, wildcards: Any) -> int | None:
    """The time limit: the predicted time with head-room. Communication between processes is not counted.

    None where nothing is submitted: on one machine, and in the job itself.
    """
    if workflow.local_exec or not workflow.is_main_process:
        return None
    # they import torch
    from famba.cost.plan import assumed, counted, predict  # noqa: PLC0415
    from famba.cost.roofline import PROFILES  # noqa: PLC0415

    cell = _cell(experiment, wildcards)
    known = next((name for name in PROFILES if name in gpu.lower()), ASSUMED_GPU)
    calibration = assumed(cell.recipe.precision, known, cell.recipe.cuda_graphs)
    backend = "triton" if cell.scan == "auto" else cell.scan
    step = counted(cell, backend)
    return math.ceil(HEADROOM * predict(cell, step, calibration, workers=1).cell_s / 60) + START_MINUTES
