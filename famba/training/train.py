"""Train one cell: `Training.run` is the loop over epochs, `_train_epoch` an epoch, `_train_steps` its steps.

At a value that is not finite the training fails (checks.py); asked to stop, it saves a checkpoint and stops (stop.py);
run again, it resumes there (checkpoint.py); at its end it leaves a row (result.py). timing.py has its clocks.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from famba import data, ops
from famba.config import Cell
from famba.data import seeds
from famba.data.loader import EvalLoader, TrainLoader
from famba.errors import CheckFailed, Stopped
from famba.results import predictions, tokens
from famba.results.epochs import write_epochs, write_steps
from famba.results.predictions import Predictions
from famba.results.row import Row, write_row
from famba.results.tokens import write_tokens
from famba.similarity import token_record
from famba.system import float32
from famba.system.cpu_time import cpu_seconds
from famba.system.device import pick_device
from famba.training import activations, checkpoint, checks, evaluate, initial, optim, result, train_state
from famba.training.distributed import Processes
from famba.training.history import EpochSoFar, History
from famba.training.progress import Progress
from famba.training.stop import StopRequest
from famba.training.timing import Meter

_CHECK_STEPS = 50  # reading the loss makes the host wait for a GPU, so there it is read this often only
_STOP = 2
SAVE_S = 900.0  # within a long epoch, a checkpoint this often


class Training:
    """One cell between its settings and its row.

    Args:
        cell: what to train.
        folder: of the row, the checkpoint and the weights.
        data_root: where the data sets are.
        progress: what it says while it runs; None: the terminal alone.
        world: the processes that train the cell together.
        init: checkpoint to start from; None: the seed's own weights.
        stop: asked for by whoever sets its signal.
    """

    def __init__(
        self,
        cell: Cell,
        folder: Path,
        data_root: Path,
        progress: Progress | None = None,
        world: Processes = Processes(),  # noqa: B008 (frozen)
        init: Path | None = None,
        stop: StopRequest | None = None,
    ) -> None:
        self.cell = cell
        self.folder = folder
        self.world = world
        self.stop = stop or StopRequest()
        self.progress = progress or Progress(cell.id, cell.recipe.epochs, silent=not world.is_main)
        self.device = pick_device(cell.device)
        if cell.threads is not None:
            torch.set_num_threads(cell.threads)
        float32.fix()
        self.dataset = data.load(cell.dataset, data_root)
        self.scan = ops.choose(self.device, requested=cell.scan)
        self.init = initial.identify(init)
        seeds.seed_everything(cell.seed)
        self.state = train_state.build(cell, self.device, self.scan.name, len(self.dataset.classes), world, init)
        self.model = self.state.model
        size, share = cell.architecture.img_size, (world.rank, world.world_size)
        self.train_images = TrainLoader(self.dataset, cell.recipe, size, cell.seed, self.device, *share)
        self.test_images = EvalLoader(self.dataset, cell.recipe, size, self.device, *share)
        self.steps = self.train_images.steps  # of an epoch
        self.finite = checks.FiniteCheck(cell.id, self.model, self.state.autocast)
        self.history = History(started=result.now(), init=self.init.model_dump())
        self.tokens = checks.checked_tokens(self.model, self.device)
        checks.check_fusion(self.model, self.device)
        self.saved_activations = activations.saved_activation_bytes(self.model, self.device, self.state.autocast)
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
        if warning := optim.rates(self.cell.recipe, self.steps).warning:
            self.progress.say(f"{self.cell.id}: {warning}")
        self.progress.start(self._steps_done / self.steps)
        self.history.runs += 1
        self.meter = Meter(self.history, self.device, self.world, self.train_images)
        self._saved_at = time.perf_counter()
        try:
            for epoch in range(len(self.history.epochs), self.cell.recipe.epochs):
                self._train_epoch(epoch)
                self._save()
        except _Interrupted:
            self._save()
            by = self.stop.signal or signal.SIGTERM  # another process's
            raise Stopped(
                f"{self.cell.id}: stopped by {by.name} at {self.position()}; run it again to resume there", by
            ) from None
        self.meter.lap()  # the clock stops: what follows is no part of a cell
        return self._finish()

    def _train_epoch(self, epoch: int) -> None:
        """Take its steps; evaluate the weights, then their moving average; add a line to the history."""
        history = self.history
        self._train_steps(epoch)
        started = time.perf_counter()
        top1, top5 = self._evaluate(epoch)
        evaluation_s = time.perf_counter() - started
        started, cpu_started = time.perf_counter(), cpu_seconds()
        with self.state.ema.applied_to(self.model):
            ema_top1, ema_top5 = self._evaluate(epoch, "the moving average's")
        ema_evaluation_s = time.perf_counter() - started
        self.meter.leave_out(cpu_started)
        history.epochs.append(
            {
                "epoch": epoch,
                "lr": self._lr(epoch),  # of the first step
                "train_loss": torch.tensor(history.losses[-self.steps :]).mean().item(),
                "top1": top1,
                "top5": top5,
                "ema_top1": ema_top1,
                "ema_top5": ema_top5,
                "train_s": history.epoch_so_far.train_s,
                "evaluation_s": evaluation_s,
                "ema_evaluation_s": ema_evaluation_s,
                "data_wait_s": history.epoch_so_far.data_wait_s,
                "cpu_s": history.epoch_so_far.cpu_s,
                "images_per_s": self.steps * self.cell.recipe.global_batch / history.epoch_so_far.train_s,
            }
        )
        history.epoch_so_far = EpochSoFar()
        self.progress.epoch(top1)

    def _train_steps(self, epoch: int) -> None:
        """Take the steps of an epoch that are left of it; a wish to stop or to save is met between two of them."""
        recipe, steps, first = self.cell.recipe, self.steps, self.history.epoch_so_far.steps
        self.model.train()
        losses = torch.zeros(steps, device=self.device)
        check_every = 1 if self.device.type == "cpu" else _CHECK_STEPS
        self.meter.start_steps()
        for step, batches in enumerate(self.train_images.epoch(epoch, first), first):
            optim.set_learning_rate(self.state.optimizer, self._lr(epoch, step))
            losses[step] = self.state.step.gradients(batches)
            check = (step + 1) % check_every == 0 or step + 1 == steps
            if check:
                self.finite.losses(losses[: step + 1], epoch, lambda at: self._lr(epoch, at), batches[0][0])
            self.state.step.update()
            self.meter.mark_step()
            self.progress.step(epoch, step + 1, steps, recipe.global_batch, losses[step].item() if check else None)
            if check and (wish := self._wish()):
                self.meter.stop_steps(losses)
                if wish == _STOP:
                    raise _Interrupted
                self._save()
                self.meter.start_steps()
        self.meter.stop_steps(losses)

    def _evaluate(self, epoch: int, whose: str = "the") -> tuple[float, float]:
        """Top-1 and top-5 on the test set, in percent. Raises CheckFailed if a logit is not finite."""
        counts = evaluate.count_hits(self.state.forward, self.test_images, self._between_batches)
        self.world.all_sum_([counts])
        self.finite.logits(int(counts[2]), self.test_images, whose, epoch, self.state.lr)
        top1, top5 = (counts[:2].double() / len(self.test_images) * 100).tolist()
        return top1, top5

    def _between_batches(self) -> None:
        self.progress.evaluating()
        if self.stop.signal and self.world.world_size == 1:  # several processes have not as many batches each
            raise _Interrupted

    def _wish(self) -> int:
        """What any of the processes wants before the next step: `_STOP`, a checkpoint (1), nothing (0)."""
        due = time.perf_counter() - self._saved_at > SAVE_S
        return self.world.all_max(_STOP if self.stop.signal else int(due), self.device)

    def _lr(self, epoch: int, step: int = 0) -> float:
        return optim.learning_rate(self.cell.recipe, epoch, step, self.steps)

    @property
    def _steps_done(self) -> int:
        return len(self.history.epochs) * self.steps + self.history.epoch_so_far.steps

    def position(self) -> str:
        """Such as `epoch 3 of 12, step 80 of 97`: what is done."""
        done = self.history.epoch_so_far.steps
        within = f", step {done} of {self.steps}" if done else ""
        return f"epoch {len(self.history.epochs) + bool(done)} of {self.cell.recipe.epochs}{within}"

    def _save(self) -> None:
        """Write a checkpoint. Raises CheckFailed if a value in it would not be finite; the last one stays."""
        self.meter.lap()
        self.finite.state(self.state.tensors(), self.position(), self.state.lr)
        if self.world.is_main:
            data_identity = self.dataset.identity.sequence
            checkpoint.write(self.folder, self.cell, data_identity, self.history, self.state.state_dict())
        self.progress.saved(len(self.history.epochs), self.history.epoch_so_far.steps)
        self._saved_at = time.perf_counter()

    def _resume(self) -> None:
        """Resume from the newest checkpoint of this very training that is whole; set aside all that are not."""
        saved, rejected = checkpoint.newest(self.folder, self.device, self._mismatch)
        if saved is not None:
            self.state.load_state_dict(saved)
            self.history = History.from_dict(saved["history"])
        self.world.all_max(0, self.device)  # by now every process has read them
        if self.world.is_main:
            checkpoint.remove_partial(self.folder)
            for path, why, reason in rejected:
                self.progress.say(f"{self.cell.id}: {reason}; it is now {checkpoint.archive(path, why).name}")
        if saved is not None:
            self.progress.say(f"{self.cell.id}: resuming after {self.position()}")
            self.progress.saved(len(self.history.epochs), self.history.epoch_so_far.steps)
            if self.history.epochs:
                self.progress.epoch(self.history.epochs[-1]["top1"])
        elif rejected:
            self.progress.say(f"{self.cell.id}: starting anew")
        if self.world.all_max(self._steps_done, self.device) != self._steps_done:  # file systems may show a file late
            raise CheckFailed(
                f"{self.cell.id}: another node found a later checkpoint than {self.position()}; start anew"
            )

    def _mismatch(self, saved: Mapping[str, Any]) -> str | None:
        own, identity = self.state.state_dict(), self.dataset.identity.sequence
        return checkpoint.mismatch(saved, self.cell, identity, own, self.state.optimizer, self.init)

    def _finish(self) -> Row:
        """Write the row and the files beside it; the checkpoint becomes the weights."""
        row = result.row_of(
            self.cell, self.history, self.state, self.dataset, self.scan, self.init, self.device, self.world,
            steps=self.steps, tokens=self.tokens, saved_activations=self.saved_activations,
        )  # fmt: skip
        top5 = evaluate.predict(self.state.forward, self.test_images, len(self.dataset.classes))
        self.world.all_sum_([top5])
        if not self.world.is_main:
            return row
        write_epochs(self.history.epochs, self.folder / "epochs.csv")
        write_steps(self._steps_csv(), self.folder / "steps.csv")
        images, _ = next(iter(self.test_images))
        write_tokens(token_record(self.model, images, self.state.autocast), self.folder / tokens.NAME)
        made = Predictions(top5.cpu().numpy(), self.dataset.test_labels)
        predictions.write_predictions(made, row, self.folder / predictions.NAME)
        write_row(row, self.folder / "row.json")
        checkpoint.finish(self.folder)  # from here on a re-run starts anew
        self.progress.end(row)
        return row

    def _steps_csv(self) -> Iterator[dict[str, float]]:
        for number, loss in enumerate(self.history.losses):
            epoch, step = divmod(number, self.steps)
            yield {"epoch": epoch, "step": step, "lr": self._lr(epoch, step), "loss": loss}


class _Interrupted(Exception):
    """Asked to stop: unwinds to where the weights are the training's own, and a checkpoint can be saved."""
