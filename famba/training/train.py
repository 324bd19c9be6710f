"""Train one cell: the loop, its clock, and the row it ends in."""

from __future__ import annotations

import math
import signal
import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from famba import data, ops
from famba.config import Cell
from famba.data import seeds
from famba.data.loader import EvalLoader, TrainLoader
from famba.errors import CheckFailed, Stopped
from famba.flops import forward_flops
from famba.model import VisionMamba
from famba.results import predictions, tokens
from famba.results.epochs import write_epochs, write_steps
from famba.results.predictions import Predictions
from famba.results.row import Cost, Data, Memory, Metrics, Row, Scan, Time, Tokens, write_row
from famba.results.tokens import write_tokens
from famba.similarity import token_record
from famba.system import float32
from famba.system.cpu_time import cpu_seconds
from famba.system.device import energy_joules, environment, host_peak_bytes, pick_device
from famba.training import activations, checkpoint, checks, ema, initial, optim, timing
from famba.training.checkpoint import EpochSoFar, History
from famba.training.distributed import Processes
from famba.training.evaluate import CapturedForward, Forward
from famba.training.paired import step_ratio
from famba.training.progress import Progress
from famba.training.step import CapturedStep, Step
from famba.training.stop import StopRequest

METHOD = "famba-v"  # of token fusion
_CHECK_STEPS = 50  # reading the loss makes the host wait for a GPU, so there it is read this often only
_STOP = 2
SAVE_S = 900.0  # within a long epoch, a checkpoint this often


class Training:
    """One cell between its settings and its row.

    Args:
        cell: what to train.
        folder: of the row, the checkpoint and the weights.
        data_root: where the data sets are.
        log: file that gets the progress, too.
        world: the processes that train the cell together.
        init: checkpoint to start from; None: the seed's own weights.
        stop: asked for by whoever sets its signal.
    """

    def __init__(
        self,
        cell: Cell,
        folder: Path,
        data_root: Path,
        log: Path | None = None,
        world: Processes = Processes(),  # noqa: B008 (frozen)
        init: Path | None = None,
        stop: StopRequest | None = None,
    ) -> None:
        self.cell = cell
        self.folder = folder
        self.world = world
        self.stop = StopRequest() if stop is None else stop
        self.progress = Progress(cell.id, cell.recipe.epochs, log, silent=not world.is_main)
        self.device = pick_device(cell.device)
        if cell.threads is not None:
            torch.set_num_threads(cell.threads)
        float32.fix()
        self.dataset = data.load(cell.dataset, data_root)
        self.choice = ops.choose(self.device, requested=cell.scan)
        seeds.seed_everything(cell.seed)
        architecture = cell.architecture
        self.model = VisionMamba(
            **architecture.model_dump(),
            num_classes=len(self.dataset.classes),
            fusion=cell.schedule,
            order=cell.fusion.order,
            scan=self.choice.name,
        ).to(self.device)
        self.init = initial.identify(init)
        if init is not None:
            initial.load(init, self.model)
        self.ema = ema.Ema(self.model, cell.recipe.ema_decay)
        self.optimizer = optim.optimizer(self.model, cell.recipe)
        captured = cell.recipe.cuda_graphs and self.device.type == "cuda"
        self.step = (CapturedStep if captured else Step)(
            self.model, self.optimizer, self.ema, cell.recipe, self._autocast, world
        )
        self.forward = (CapturedForward if captured else Forward)(self.model, self._autocast)
        size, share = architecture.img_size, (world.rank, world.world_size)
        self.train_images = TrainLoader(self.dataset, cell.recipe, size, cell.seed, self.device, *share)
        self.test_images = EvalLoader(self.dataset, cell.recipe, size, self.device, *share)
        self.history = History(started=_now(), init=self.init.model_dump())
        self.tokens = checks.checked_tokens(self.model, self.device)
        checks.check_fusion(self.model, self.device)
        self.saved_activations = activations.saved_activation_bytes(self.model, self.device, self._autocast)
        self._initial_digest = initial.digest(self.model)

    def run(self) -> Row:
        """Train to the last epoch, resuming where a checkpoint is; returns the row, which it has written.

        Raises:
            CheckFailed: loss, logits, weights or optimiser state are no longer finite, or the weights are not those
                that `init` names.
            Stopped: asked to stop, it has saved a checkpoint.
        """
        if initial.digest(self.model) != self._initial_digest:
            raise CheckFailed(f"{self.cell.id}: its weights were changed before the first step; load them with `init`")
        self._resume()
        epochs = self.cell.recipe.epochs
        done, steps = len(self.history.epochs), self.train_images.steps
        steps_done = done * steps + self.history.epoch_so_far.steps
        if self.world.all_max(steps_done, self.device) != steps_done:  # file systems may show a new file late
            raise CheckFailed(
                f"{self.cell.id}: another node found a later checkpoint than {self.position()}; start anew"
            )
        self._warmed_up = False
        if warning := optim.rates(self.cell.recipe, steps).warning:
            self.progress.say(f"{self.cell.id}: {warning}")
        self.progress.start(steps_done / steps)
        self.history.runs += 1
        self._lap, self._cpu_lap, self._joules = time.perf_counter(), cpu_seconds(), energy_joules(self.device)
        self._saved = time.perf_counter()
        try:
            for epoch in range(done, epochs):
                self._train_epoch(epoch)
                self._save()
        except _Interrupted:
            self._save()
            raise Stopped(*self._stopped()) from None
        self._account()
        row = self._row()
        made = self._predict()  # after the clock has stopped: what follows is no part of a cell
        if not self.world.is_main:
            return row
        write_epochs(self.history.epochs, self.folder / "epochs.csv")
        write_steps(self._steps(), self.folder / "steps.csv")
        images, _ = next(iter(self.test_images))
        write_tokens(token_record(self.model, images, self._autocast), self.folder / tokens.NAME)
        predictions.write_predictions(made, row, self.folder / predictions.NAME)
        write_row(row, self.folder / "row.json")
        checkpoint.finish(self.folder)  # from here on a re-run starts anew
        self.progress.end(row)
        return row

    def _train_epoch(self, epoch: int) -> None:
        so_far = self._train_steps(epoch)
        settings, steps = self.cell.recipe, self.train_images.steps
        started = time.perf_counter()
        top1, top5 = self._evaluate(epoch)
        evaluation_s = time.perf_counter() - started
        started, cpu_started = time.perf_counter(), cpu_seconds()
        with self.ema.applied_to(self.model):
            ema_top1, ema_top5 = self._evaluate(epoch, "the moving average's")
        ema_evaluation_s = time.perf_counter() - started
        self.history.loop_cpu_s -= self._of_all(cpu_seconds() - cpu_started)  # `_account` counts it with the rest
        self.history.epochs.append(
            {
                "epoch": epoch,
                "lr": optim.learning_rate(settings, epoch),  # of the first step
                "train_loss": torch.tensor(self.history.losses[-steps:]).mean().item(),
                "top1": top1,
                "top5": top5,
                "ema_top1": ema_top1,
                "ema_top5": ema_top5,
                "train_s": so_far.train_s,
                "evaluation_s": evaluation_s,
                "ema_evaluation_s": ema_evaluation_s,
                "data_wait_s": so_far.data_wait_s,
                "cpu_s": so_far.cpu_s,
                "images_per_s": steps * settings.global_batch / so_far.train_s,
            }
        )
        self.history.epoch_so_far = EpochSoFar()
        self.progress.epoch(epoch, top1)

    def _train_steps(self, epoch: int) -> EpochSoFar:
        """Take the steps of an epoch that are left of it; returns what all of them came to."""
        settings, steps = self.cell.recipe, self.train_images.steps
        self.model.train()
        first = self.history.epoch_so_far.steps
        losses = torch.zeros(steps, device=self.device)
        check_every = 1 if self.device.type == "cpu" else _CHECK_STEPS
        clock = _Clock(self)
        for step, batches in enumerate(self.train_images.epoch(epoch, first), first):
            optim.set_learning_rate(self.optimizer, optim.learning_rate(settings, epoch, step, steps))
            losses[step] = self.step.gradients(batches)
            check = (step + 1) % check_every == 0 or step + 1 == steps
            if check:
                self._check_finite(losses[: step + 1], epoch, batches[0][0])
            self.step.update()
            clock.mark()
            self.progress.step(epoch, step + 1, steps, settings.global_batch)
            if check and (wish := self._wish()):
                clock.stop(losses)
                if wish == _STOP:
                    raise _Interrupted
                self._save()
                clock = _Clock(self)
        clock.stop(losses)
        return self.history.epoch_so_far

    def _steps(self) -> Iterator[dict[str, float]]:
        """What `steps.csv` has of each step."""
        settings, steps = self.cell.recipe, self.train_images.steps
        for number, loss in enumerate(self.history.losses):
            epoch, step = divmod(number, steps)
            yield {"epoch": epoch, "step": step, "lr": optim.learning_rate(settings, epoch, step, steps), "loss": loss}

    def _wish(self) -> int:
        """What any of the processes wants before the next step: `_STOP`, a checkpoint (1), nothing (0)."""
        due = time.perf_counter() - self._saved > SAVE_S
        return self.world.all_max(_STOP if self.stop.signal else int(due), self.device)

    def _stopped(self) -> tuple[str, signal.Signals]:
        by = self.stop.signal or signal.SIGTERM  # another process's
        return f"{self.cell.id}: stopped by {by.name} at {self.position()}; run it again to resume there", by

    def position(self) -> str:
        """Such as `epoch 3 of 12, step 80 of 97`: what is done."""
        done, steps = self.history.epoch_so_far.steps, self.train_images.steps
        within = f", step {done} of {steps}" if done else ""
        return f"epoch {len(self.history.epochs) + bool(done)} of {self.cell.recipe.epochs}{within}"

    def _evaluate(self, epoch: int, whose: str = "the") -> tuple[float, float]:
        """Top-1 and top-5 on the test set, in percent. Raises CheckFailed if a logit is not finite."""
        counts = torch.zeros(3, dtype=torch.long, device=self.device)
        for images, labels in self.test_images:
            logits = self.forward(images)
            hits = _top5(logits) == labels[:, None]  # (B, 5)
            counts += torch.stack([hits[:, 0].sum(), hits.sum(), (~logits.isfinite()).any(dim=1).sum()])
            if self.stop.signal and self.world.world_size == 1:  # several processes have not as many batches each
                raise _Interrupted
        self.world.all_sum_([counts])
        if broken := int(counts[2]):
            where = checks.first_not_finite(self.model, next(iter(self.test_images))[0], self._autocast)
            raise CheckFailed(
                f"{self.cell.id}: {whose} logits of {broken} of {len(self.test_images)} test images are not finite "
                f"after epoch {epoch} (lr {self._lr():.3g}); first not finite: {where}"
            )
        top1, top5 = (counts[:2].double() / len(self.test_images) * 100).tolist()
        return top1, top5

    def _predict(self) -> Predictions:
        """The five likeliest classes of every test image, in the test set's order."""
        top5 = torch.zeros(len(self.test_images), min(5, len(self.dataset.classes)), device=self.device).long()
        for places, (images, _) in zip(self.test_images.places, self.test_images, strict=True):
            top5[places] = _top5(self.forward(images))
        self.world.all_sum_([top5])
        return Predictions(top5.cpu().numpy(), self.dataset.test_labels)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.cell.recipe.precision == "bf16")

    def _lr(self) -> float:
        """The learning rate of the latest step."""
        return float(self.optimizer.param_groups[0]["lr"])

    def _check_finite(self, losses: Tensor, epoch: int, images: Tensor) -> None:
        finite = losses.isfinite()
        if finite.all():
            return
        step = int((~finite).int().argmax())
        lr = optim.learning_rate(self.cell.recipe, epoch, step, self.train_images.steps)
        where = checks.first_not_finite(self.model, images, self._autocast)
        raise CheckFailed(
            f"{self.cell.id}: the loss is {losses[step].item()} at epoch {epoch}, step {step} "
            f"(lr {lr:.3g}); first not finite: {where}"
        )

    def _account_steps(self, times: timing.StepTimes) -> None:
        """Adds steps to the history. The first one of a run is its warm-up."""
        if not times.wall:
            return
        history = self.history
        warmup = 0 if self._warmed_up else 1
        self._warmed_up = True
        history.warmup_s += sum(times.wall[:warmup]) / 1e3
        history.warmup_cpu_s += self._of_all(sum(times.cpu[:warmup]) / 1e3)
        if len(times.wall) == warmup:
            warmup = 0  # one step alone has no other to time
        history.step_ms += times.wall[warmup:]
        history.step_cpu_ms += times.cpu[warmup:]
        history.thread_cpu_s += sum(times.thread[warmup:]) / 1e3

    def _of_all(self, seconds: float) -> float:
        """The sum over all processes."""
        held = torch.tensor(seconds, dtype=torch.float64, device=self.device)
        self.world.all_sum_([held])
        return held.item()

    def _account(self) -> None:
        """Adds wall clock, CPU time, energy and memory peaks since the last call to the history."""
        history = self.history
        now, cpu_now, joules = time.perf_counter(), cpu_seconds(), energy_joules(self.device)
        history.total_s += now - self._lap
        history.loop_cpu_s += self._of_all(cpu_now - self._cpu_lap)
        if history.energy_joules is None or joules is None or self._joules is None:
            history.energy_joules = None
        else:
            history.energy_joules += joules - self._joules
        self._lap, self._cpu_lap, self._joules = now, cpu_now, joules
        history.host_peak = max(history.host_peak, host_peak_bytes())
        if self.device.type == "cuda":
            peak = self.world.all_max(torch.cuda.max_memory_allocated(self.device), self.device)
            history.device_peak = max(history.device_peak, peak)

    def state_tensors(self) -> dict[str, Tensor]:
        """All that a checkpoint holds of the training, by what it is."""
        parameters = dict(self.model.named_parameters())
        moments = {
            f"the optimiser's {key} of {name}": value
            for name, parameter in parameters.items()
            for key, value in self.optimizer.state[parameter].items()
        }
        averages = {f"the moving average of {name}": value for name, value in self.ema.state_dict().items()}
        return {f"parameter {name}": parameter for name, parameter in parameters.items()} | averages | moments

    def _save(self) -> None:
        """Write a checkpoint. Raises CheckFailed if a value in it would not be finite; the last one stays."""
        self._account()
        if not math.isfinite(checks.largest_magnitude(self.state_tensors().values())):
            name = next(name for name, tensor in self.state_tensors().items() if not tensor.isfinite().all())
            raise CheckFailed(f"{self.cell.id}: {name} is not finite after {self.position()} (lr {self._lr():.3g})")
        if self.world.is_main:
            data_identity = self.dataset.identity.sequence
            checkpoint.write(self.folder, self.cell, data_identity, self.history, self._states())
        self._saved = time.perf_counter()

    def _states(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def _resume(self) -> None:
        """Resume from the newest checkpoint of this very training that is whole; set aside all that are not."""
        found = checkpoint.present(self.folder)
        rejected: list[tuple[Path, str, str]] = []
        for path in found:
            try:
                state = checkpoint.read(path, self.device)
            except checkpoint.Damaged as damage:
                rejected.append((path, "damaged", f"{path} is damaged ({damage})"))
                continue
            identity = self.dataset.identity.sequence
            other = checkpoint.mismatch(state, self.cell, identity, self._states(), self.optimizer, self.init)
            if other is None:
                self.model.load_state_dict(state["model"])
                self.ema.load_state_dict(state["ema"])
                self.optimizer.load_state_dict(state["optimizer"])
                self.history = History.from_dict(state["history"])
                break
            rejected.append((path, "other-settings", f"{path} is a checkpoint of {other}"))
        self.world.all_max(0, self.device)  # by now every process has read them
        if self.world.is_main:
            checkpoint.remove_partial(self.folder)
            for path, why, reason in rejected:
                self.progress.say(f"{self.cell.id}: {reason}; it is now {checkpoint.archive(path, why).name}")
        if self.history.losses:
            self.progress.say(f"{self.cell.id}: resuming after {self.position()}")
        elif found:
            self.progress.say(f"{self.cell.id}: starting anew")

    def _step_ratio(self) -> float | None:
        if self.device.type == "cuda" or self.world.world_size > 1:
            return None
        return step_ratio(self.cell, self.choice.name, len(self.dataset.classes))

    def _row(self) -> Row:
        history, settings, cuda = self.history, self.cell.recipe, self.device.type == "cuda"
        images = len(history.epochs) * self.train_images.steps * settings.global_batch
        train_s = history.sum("train_s")
        timed = sum(history.step_ms) / 1e3
        identity = asdict(self.dataset.identity)
        return Row(
            id=self.cell.id,
            watermark="SMOKE" if self.cell.protocol == "smoke" else None,
            cell=self.cell,
            method=METHOD,
            init=self.init,
            arithmetic=float32.arithmetic(),
            metrics=Metrics(
                last=history.last(),
                best=history.best(),
                ema_last=history.last("ema_"),
                ema_best=history.best("ema_"),
                train_loss=history.epochs[-1]["train_loss"],
                largest_weight=checks.largest_magnitude(self.model.parameters()),
                images_seen=images,
            ),
            time=Time(
                total=history.total_s,
                train=train_s,
                evaluation=history.sum("evaluation_s"),
                ema_evaluation=history.sum("ema_evaluation_s"),
                data_wait=history.sum("data_wait_s"),
                warmup=history.warmup_s,
                cpu=history.sum("cpu_s") - history.warmup_cpu_s,
                thread_cpu=history.thread_cpu_s,
                loop_cpu=history.loop_cpu_s,
                images_per_s=len(history.step_ms) * settings.global_batch / timed,
                step_ms=statistics.median(history.step_ms),
                step_cpu_ms=None if cuda else statistics.median(history.step_cpu_ms),
                step_ratio=self._step_ratio(),
                runs=history.runs,
            ),
            memory=Memory(
                device_peak=history.device_peak if cuda else None,
                host_peak=history.host_peak,
                saved_activations=self.saved_activations,
            ),
            tokens=Tokens(scheduled=self.model.scheduled_tokens, measured=self.tokens),
            cost=Cost(
                parameters=sum(p.numel() for p in self.model.parameters()),
                forward_flops=forward_flops(self.cell.architecture, self.cell.schedule, len(self.dataset.classes)),
                # the counter of one of several GPUs is not the training's
                energy_joules=history.energy_joules if self.world.world_size == 1 else None,
            ),
            data=Data(**identity),
            scan=Scan(backend=self.choice.name, reason=self.choice.reason),
            environment=environment(self.device, self.world.world_size),
            started=history.started,
            finished=_now(),
        )


class _Interrupted(Exception):
    """Asked to stop: unwinds to where the weights are the training's own, and a checkpoint can be saved."""


class _Clock:
    """Times consecutive steps of a training, between two checkpoints."""

    def __init__(self, training: Training) -> None:
        self._training = training
        self._waited = training.train_images.wait_s
        self._began, self._cpu_began = time.perf_counter(), cpu_seconds()
        self._steps = timing.StepClock(training.device)
        self.mark = self._steps.mark

    def stop(self, losses: Tensor) -> None:
        """Add what has been timed to the history. `losses`: of the whole epoch, (steps,)."""
        training, so_far = self._training, self._training.history.epoch_so_far
        times = self._steps.times()
        so_far.train_s += time.perf_counter() - self._began
        so_far.cpu_s += training._of_all(cpu_seconds() - self._cpu_began)
        so_far.data_wait_s += training.train_images.wait_s - self._waited
        first, so_far.steps = so_far.steps, so_far.steps + len(times.wall)
        training.history.losses += losses[first : so_far.steps].tolist()
        training._account_steps(times)


def _top5(logits: Tensor) -> Tensor:
    """(B, k) classes by falling logit; k is 5, or the number of classes if that is smaller."""
    return logits.topk(min(5, logits.shape[1]), dim=1).indices


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
