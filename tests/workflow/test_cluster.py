"""What a training asks of a cluster. .ci/slurm.sh runs the pipeline on a real one; here sbatch refuses every job."""

import math
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from famba.cost.plan import plan
from famba.errors import InputError
from famba.workflow import cluster
from tests.helpers import ROOT
from tests.helpers.pipeline import snakemake
from tests.helpers.rows import experiment, paper_experiment

CELL = SimpleNamespace(model="vim_small", strategy="upper", seed=0)


def asked(grid, cell=CELL, here=False, **defaults):
    """The resources of a cell as Snakemake evaluates them; `here`: on one machine."""
    settings = SimpleNamespace(default_resources={key: SimpleNamespace(raw=value) for key, value in defaults.items()})
    workflow = SimpleNamespace(resource_settings=settings, local_exec=here, is_main_process=True)
    resources = cluster.resources(workflow, grid)
    return {key: value(cell) if isinstance(value, partial) else value for key, value in resources.items()}


@pytest.mark.parametrize("gpu", ["a100", "h200"])
def test_the_time_limit_is_the_prediction_with_head_room(gpu):
    grid = paper_experiment()
    predicted, _ = plan(grid, gpu)
    for cell, prediction in zip(grid.cells(), predicted, strict=True):
        limit = asked(grid, cell, gpu_model=gpu)["runtime"]
        assert limit == math.ceil(60 * prediction.hours * cluster.HEADROOM) + cluster.START_MINUTES


def test_a_gpu_that_the_cost_model_does_not_know_counts_as_an_a100():
    limit = asked(paper_experiment(), gpu_model="a100")["runtime"]
    assert asked(paper_experiment(), gpu_model="v100")["runtime"] == limit
    assert asked(paper_experiment())["runtime"] == limit
    assert asked(paper_experiment(), gpu_model="nvidia_h200_nvl")["runtime"] < limit


def test_four_gpus_take_a_quarter_of_the_time_and_four_times_the_rest():
    one, four = asked(paper_experiment()), asked(paper_experiment(processes=4))
    assert (one["gpu"], four["gpu"]) == (1, 4)
    assert four["mem_mb"] == 4 * one["mem_mb"]
    assert cluster.threads(paper_experiment(processes=4)) == 4 * 9  # a training and its eight loading processes
    alone, together = (limit - cluster.START_MINUTES for limit in (one["runtime"], four["runtime"]))
    assert alone / 4 < together < alone / 2  # the update of the weights is each process's own
    assert "nodes" not in four


def test_several_nodes_get_their_share_each():
    resources = asked(paper_experiment(processes=8, nodes=2), gpu_model="a100")
    assert resources["gpu"] == 8
    assert resources["slurm_extra"] == "--gpus-per-node=a100:4"
    assert resources["nodes"] == resources["tasks"] == 2
    assert resources["mem_mb"] == asked(paper_experiment(processes=4))["mem_mb"]


def test_a_training_on_a_cpu_asks_for_no_gpu_and_takes_the_profiles_time():
    grid = experiment(processes=2)
    cell = SimpleNamespace(model="vim_small_mini", strategy="baseline", seed=0)
    resources = asked(grid, cell, gpu_model="a100")
    assert resources["gpu"] == 0
    assert resources["gpu_model"] is None
    assert "runtime" not in resources
    assert cluster.threads(grid) == 2  # the smoke grid's one thread each
    assert resources["mem_mb"] > 2 * 800  # each process of this cell took about 800 MiB


def test_on_one_machine_nothing_is_predicted():
    assert asked(paper_experiment(), here=True)["runtime"] is None


def test_reading_the_rules_does_not_import_torch():
    seen = "import sys, famba.workflow.cluster, famba.workflow.experiment; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", seen], cwd=ROOT, timeout=60, check=False).returncode == 0


@pytest.mark.parametrize("changes", [{"processes": 3}, {"processes": 2, "nodes": 4}, {"nodes": 2}])
def test_processes_that_cannot_share_evenly_are_refused(changes):
    with pytest.raises(InputError, match="must divide"):
        paper_experiment(**changes)


def test_one_process_leaves_a_cell_as_it_was():
    assert "processes" not in paper_experiment().cells()[0].model_dump_json()
    assert '"processes":4' in paper_experiment(processes=4).cells()[0].model_dump_json()


def submit(checkout: Path, **changes: object) -> tuple[int, str]:
    """Run a cell of the pipeline under the profile on a machine whose sbatch takes nothing; exit status and output."""
    tools = checkout / "bin"
    tools.mkdir()
    for name, script in {"sbatch": "echo $* >bin/asked; exit 1", "sacctmgr": "", "sshare": ""}.items():
        (tools / name).write_text(f"#!/bin/sh\n{script}\n")
        (tools / name).chmod(0o755)
    grid = checkout / "config" / "smoke.yaml"
    grid.write_text(yaml.safe_dump(yaml.safe_load(grid.read_text()) | changes))
    options = ["--software-deployment-method", "env-modules", "--slurm-init-seconds-before-status-checks", "1"]
    row = "results/smoke/cells/vim_tiny_mini-upper-s0/row.json"
    command = [row, "--workflow-profile", "slurm", "--configfile", str(grid), "--retries", "0", *options]
    said = snakemake(checkout, *command, path=str(tools))
    return said.returncode, said.stdout


def test_sbatch_is_asked_for_what_the_cell_needs(checkout):
    status, said = submit(checkout, device="cuda", processes=4)
    assert status == 1, said
    call = (checkout / "bin" / "asked").read_text()
    minutes = cluster.START_MINUTES + 1  # a cell of seconds
    for option in ("-p gpu", "-A my-account", "--gpus=a100:4", "--cpus-per-task=4", "--mem 32000", "--requeue",
                   f"-t {minutes} "):  # fmt: skip
        assert option in call, option


def test_a_cluster_has_to_know_how_many_cpus_a_training_takes(checkout):
    status, said = submit(checkout, threads=None)
    assert status == 2, said
    assert said.splitlines()[-1].startswith("famba: error: threads: ")
    assert not (checkout / "results").exists()
