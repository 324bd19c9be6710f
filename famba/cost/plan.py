"""What an experiment will cost: a prediction for each cell, from measured probes or a datasheet."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from famba import ops
from famba.config import Cell, Experiment
from famba.config.methods import PLACEMENTS
from famba.cost.calibrate import Calibration, calibrate
from famba.cost.roofline import PROFILES
from famba.data.sampling import steps_per_epoch
from famba.flops import StepCost, step_cost
from famba.methods.names import build
from famba.ops.precision import DTYPES, slowness
from famba.results.summary import SHARED
from famba.system.device import other_gpu_processes, pick_device
from famba.system.host import usable_cpus
from famba.text import install
from famba.training.optim import rates

# For a device that is not here: the share of the bound that a step is assumed to reach, and the host's time to launch a
# kernel where no graph replays them.
ASSUMED_SHARE = 0.5
LAUNCH_S = 5e-6
ELSEWHERE = "a100"  # the paper's GPU
_SLOWED = "; without the others, cells take less time than planned here"


@dataclass(frozen=True)
class Prediction:
    """Of one cell: seconds, bytes of each process, and hours of all of its devices (GPUs, or a machine's CPU)."""

    cell: str
    model: str
    strategy: str
    seed: int
    tokens_first: int
    tokens_final: int
    token_share: float
    step_s: float
    images_per_s: float
    cell_s: float
    hours: float
    saved_per_image: int
    peak_bytes: int
    limit: str


def predict(cell: Cell, step: StepCost, calibration: Calibration, workers: int) -> Prediction:
    """A cell's time and memory.

    `workers`: processes that load images beside each that trains; 0: those load them themselves.
    """
    sizes, settings = cell.sizes, cell.recipe
    compute = calibration.step_s(step)
    data = (calibration.data_s or 0.0) * step.images
    beside = workers > 0 and settings.augmentation == "timm"
    step_s = max(compute, data / workers) if beside else compute + data
    steps = steps_per_epoch(sizes.train, settings)
    # raw and averaged weights, after every epoch
    evaluation = 2 * calibration.evaluation_s(step, sizes.test) / cell.processes
    cell_s = settings.epochs * (steps * step_s + evaluation)
    trace = [layer.tokens for layer in step.layers]
    return Prediction(
        cell=cell.id,
        model=cell.model,
        strategy=cell.strategy,
        seed=cell.seed,
        tokens_first=cell.architecture.tokens,
        tokens_final=step.layers[-1].left,
        token_share=sum(trace) / (len(trace) * cell.architecture.tokens),
        step_s=step_s,
        images_per_s=settings.global_batch / step_s,
        cell_s=cell_s,
        hours=cell_s * cell.processes / 3600,
        saved_per_image=step.saved_per_image,
        peak_bytes=step.peak_bytes,
        limit="data" if step_s > compute and beside else "training",
    )


def assumed(precision: str, profile: str, captured: bool) -> Calibration:
    """What a device that is not here is assumed to make of the counts; `captured`: graphs replay the kernels."""
    slower = 1 / ASSUMED_SHARE
    rates = PROFILES[profile][precision]
    return Calibration(rates, slower, 0.0, slower, slower, slower, None, 0.0 if captured else LAUNCH_S)


def counted(cell: Cell, scan: str) -> StepCost:
    """`step_cost` with the comparisons of tokens that the cell's method makes; of a class of your own, with none.

    Such a class is not run here: its file may be another machine's.
    """
    fusion = cell.fusion
    name, settings = ("random_prune", {}) if _is_own(cell) else (fusion.method, fusion.settings)
    method = build(name, settings, fusion.acts)
    return step_cost(cell, cell.sizes.classes, scan, method=method)


def _is_own(cell: Cell) -> bool:
    return cell.fusion.method not in PLACEMENTS


def plan(experiment: Experiment, device: str) -> tuple[list[Prediction], list[str]]:
    """A prediction for each cell, and what they rest on, line by line. `device`: measure, or a profile's name.

    Raises InputError when a measurement is asked for and the experiment's device or scan is not here.
    """
    predictions, notes = _measured(experiment) if device == "measure" else _calculated(experiment, device)
    for recipe in experiment.recipes:
        models = [model for model in experiment.models if experiment.recipe_of(model) == recipe]
        of = f"{', '.join(models)}: " if len(experiment.recipes) > 1 else ""
        run = rates(recipe, steps_per_epoch(experiment.sizes.train, recipe))
        notes.append(f"{of}{run}")
        if run.warning:
            notes.append(f"warning: {of}{run.warning}")
    if own := dict.fromkeys(cell.fusion.method for cell in experiment.cells() if _is_own(cell)):
        notes.append(f"methods of your own: what they compare is left out: {', '.join(own)}")
    if experiment.processes > 1:
        notes.append(
            f"processes: {experiment.processes}, each on a device of its own; what they send each other is left out"
        )
    return predictions, notes


def _calculated(experiment: Experiment, device: str) -> tuple[list[Prediction], list[str]]:
    found = {recipe: assumed(recipe.precision, device, recipe.cuda_graphs) for recipe in experiment.recipes}
    profile = next(iter(found.values())).rates
    backend = "triton" if experiment.scan == "auto" else experiment.scan
    notes = [
        f"device: {profile.device}, {profile.source}",
        f"assumed: a step takes {ASSUMED_SHARE:.0%} of its bound, and never waits for data; scan {backend}",
    ]
    return [predict(cell, counted(cell, backend), found[cell.recipe], 1) for cell in experiment.cells()], notes


def _measured(experiment: Experiment) -> tuple[list[Prediction], list[str]]:
    device = pick_device(experiment.device)
    sizes = experiment.sizes
    first = {
        model: experiment.cell(model, experiment.strategies[0], experiment.seeds[0]) for model in experiment.models
    }
    one = next(iter(first.values()))
    choice = ops.choose(device, DTYPES[one.recipe.precision], experiment.scan)
    with _threads(experiment.threads):
        found = {
            model: calibrate(cell, device, choice.name, sizes.classes, sizes.stored) for model, cell in first.items()
        }
    any_of_them = next(iter(found.values()))
    notes = [
        f"device: {any_of_them.rates.device}, {any_of_them.rates.source} just now on probes of each model's width",
        f"scan: {choice.name}, {choice.reason}",
    ]
    slow = [slowness(device, precision) for precision in sorted({cell.recipe.precision for cell in first.values()})]
    notes += [f"warning: {said}" for said in (*slow, _busy(found.values(), device)) if said]
    if any_of_them.data_s is None:
        notes.append(f"data: timm is not installed, so loading it is left out; {install('paper')}")
    if experiment.data is not None:
        notes.append("data: reading and decoding the image files is left out")
    on_each_node = experiment.processes // experiment.nodes
    most = max(1, usable_cpus() // on_each_node)
    predictions = [
        predict(
            cell, counted(cell, choice.name), found[cell.model], min(cell.recipe.workers, most),
        )
        for cell in experiment.cells()
    ]  # fmt: skip
    return predictions, notes


def _busy(found: Iterable[Calibration], device: torch.device) -> str | None:
    """What else ran while the probes did, and made them slower; None where nothing is known to have."""
    if device.type == "cuda":
        others = other_gpu_processes(device)
        return f"the GPU is busy, other processes on it: {others}{_SLOWED}" if others else None
    most = max(calibration.wall_to_cpu or 0.0 for calibration in found)
    return f"the machine is busy: the probes took {most:.1f} times their CPU time{_SLOWED}" if most > SHARED else None


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """As many threads as the trainings will have."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
