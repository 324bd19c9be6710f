"""Train one cell: `Training.run` is the loop over epochs, `_train_epoch` an epoch, `_train_steps` its steps.

A value that is not finite fails the training (checks.py). On a request to stop (stop.py) it saves a checkpoint and
ends; the next run resumes from it (checkpoint.py). A finished training writes a row, which result.py builds. timing.py
measures.
"""

import signal
import time
from collections.abc import Callable, Iterator, Mapping
from enum import IntEnum
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from famba import data, ops
from famba.config import Cell
from famba.data import seeds
from famba.data.loader import EvalLoader, TrainLoader
from famba.errors import CheckFailed, Stopped
from famba.methods import draws
from famba.ops.precision import DTYPES, slowness
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
from famba.training.lock import Lock
from famba.training.progress import Progress
from famba.training.stop import StopRequest
from famba.training.timing import Meter

_CHECK_STEPS = 50  # reading the loss synchronises with a GPU, so there it is checked this often only
SAVE_S = 900.0  # seconds between checkpoints within an epoch


class _Request(IntEnum):
    """What to do between two steps, the more urgent the larger."""

    NOTHING = 0
    SAVE = 1
    STOP = 2


class Training:
    """Trains one cell, from its settings to its row.

    Args:
        cell: what to train.
        folder: where row, checkpoint and weights are written.
        data_root: where the data sets are.
        progress: where it reports; None: on the terminal only.
        world: the processes that train the cell together.
        init: checkpoint to start from; None: that of the recipe, and without one the seed's own weights.
        stop: the request to stop, set by a signal handler.
        check_every_step: look for values that are not finite at every step on a GPU, too.
        lock: of the folder, renewed whenever something is about to be written there.
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
        check_every_step: bool = False,
        lock: Lock | None = None,
    ) -> None:
        self.cell = cell
        self.lock = lock
        self.folder = folder
        self.world = world
        self.stop = stop or StopRequest()
        self.progress = progress or Progress(cell.id, cell.recipe.epochs, silent=not world.is_main)
        self.device = pick_device(cell.device)
        if cell.threads is not None:
            torch.set_num_threads(cell.threads)
        float32.fix()
        self.dataset = data.load(cell.dataset, data_root, cell.data)
        self.check_steps = 1 if check_every_step or self.device.type == "cpu" else _CHECK_STEPS
        self.scan = ops.choose(self.device, DTYPES[cell.recipe.precision], cell.scan)
        init = initial.chosen(cell, init)
        self.init = initial.identify(init)
        seeds.seed_everything(cell.seed)
        self.state = train_state.build(cell, self.device, self.scan.name, len(self.dataset.classes), world, init)
        self.model = self.state.model
        size, share = cell.architecture.img_size, (world.rank, world.world_size)
        self.train_loader = TrainLoader(self.dataset, cell.recipe, size, cell.seed, self.device, *share)
        self.test_loader = EvalLoader(self.dataset, cell.recipe, size, self.device, *share)
        self.epoch_steps = self.train_loader.steps
        self._predicted: Tensor | None = None  # of the last evaluation of the weights: (N, k)
        self.finite_check = checks.FiniteCheck(cell.id, self.model, self.state.autocast)
        self.history = History(started=result.now(), init=self.init.model_dump())
        self.measured_tokens = checks.checked_tokens(self.model, self.device)
        checks.check_reduction(self.model, self.device)
        self.saved_activations = activations.saved_activation_bytes(self.model, self.device, self.state.autocast)
        self._initial_digest = initial.digest(self.model)

    def run(self) -> Row | None:
        """Train to the last epoch, resuming from a checkpoint if there is one; writes the row and returns it.

        Of several processes the first alone makes the row; the others return None.

        Raises:
            CheckFailed: loss, logits, weights or optimiser state are no longer finite, or the weights were modified
                before the first step.
            Stopped: on a request to stop, after saving a checkpoint.
        """
        if initial.digest(self.model) != self._initial_digest:
            raise CheckFailed(
                f"{self.cell.id}: the weights were modified before the first step; pass them through `init` instead"
            )
        for line in self.state.loaded:
            self.progress.say(f"{self.cell.id}: {self.init.weights}: {line}")
        self._resume()
        if self.world.is_main:
            self._write_epochs_so_far()
        recipe = self.cell.recipe
        for warning in (optim.rates(recipe, self.epoch_steps).warning, slowness(self.device, recipe.precision)):
            if warning:
                self.progress.say(f"{self.cell.id}: {warning}")
        self.progress.start(self._steps_done / self.epoch_steps)
        self.history.runs += 1
        self.meter = Meter(self.history, self.device, self.world, self.train_loader)
        self._saved_at = time.perf_counter()
        try:
            for epoch in range(len(self.history.epochs), self.cell.recipe.epochs):
                self._train_epoch(epoch)
                self._save()
        except _Interrupted:
            self._save()
            by = self.stop.signal or signal.SIGTERM  # another rank got the signal
            raise Stopped(
                f"{self.cell.id}: stopped by {by.name} at {self.position()}; run it again to resume there", by
            ) from None
        self.meter.lap()  # stop the clock: writing results is not part of the cell's time
        return self._finish()

    def _train_epoch(self, epoch: int) -> None:
        """Run the epoch's steps, evaluate the weights and then their moving average, and append to the history."""
        history = self.history
        self._train_steps(epoch)
        started = time.perf_counter()
        top1, top5 = self._evaluate(epoch)
        evaluation_s = time.perf_counter() - started
        started, cpu_started = time.perf_counter(), cpu_seconds()
        ema_top1, ema_top5 = top1, top5
        if self.cell.recipe.ema_decay > 0:  # at 0 the average is the weights
            with self.state.ema.applied_to(self.model):
                ema_top1, ema_top5 = self._evaluate(epoch, average=True)
        ema_evaluation_s = time.perf_counter() - started
        self.meter.leave_out(cpu_started)
        history.epochs.append(
            {
                "epoch": epoch,
                "lr": self._lr(epoch),  # of the first step
                "train_loss": torch.tensor(history.losses[-self.epoch_steps :]).mean().item(),
                "top1": top1,
                "top5": top5,
                "ema_top1": ema_top1,
                "ema_top5": ema_top5,
                "train_s": history.epoch_so_far.train_s,
                "evaluation_s": evaluation_s,
                "ema_evaluation_s": ema_evaluation_s,
                "data_wait_s": history.epoch_so_far.data_wait_s,
                "cpu_s": history.epoch_so_far.cpu_s,
                "images_per_s": self.epoch_steps * self.cell.recipe.global_batch / history.epoch_so_far.train_s,
            }
        )
        history.epoch_so_far = EpochSoFar()
        self.progress.epoch(top1)

    def _train_steps(self, epoch: int) -> None:
        """Run the epoch's remaining steps. Stops and saves happen between two steps."""
        recipe, steps, first = self.cell.recipe, self.epoch_steps, self.history.epoch_so_far.steps
        self.model.train()
        losses = torch.zeros(steps, device=self.device)
        self.meter.start_steps()
        for step, batches in enumerate(self.train_loader.epoch(epoch, first), first):
            optim.set_learning_rate(self.state.optimizer, self._lr(epoch, step))
            losses[step] = self.state.step.gradients(batches, self._key(epoch, step))
            check = (step + 1) % self.check_steps == 0 or step + 1 == steps
            loss = None
            if check:  # before the update, for which the host does not wait
                # the images have no name here: it would keep them in memory until the next check
                self.finite_check.losses(
                    losses[: step + 1], epoch, lambda at: self._lr(epoch, at), (images for images, _ in batches)
                )
                loss = losses[step].item()
            self.state.step.update()
            self.meter.mark_step()
            self.progress.step(epoch, step + 1, steps, recipe.global_batch, loss)
            if check and (request := self._request()):
                self.meter.stop_steps(losses)
                if request == _Request.STOP:
                    raise _Interrupted
                self._save()
                self.meter.start_steps()
        self.meter.stop_steps(losses)

    def _key(self, epoch: int, step: int) -> int:
        """Of this process's first image of a step: an image of the global batch has one key, whichever has it."""
        whole = seeds.derived_seed(self.cell.seed, "reduction", epoch, step, 0) >> 1  # int64 has 63
        share = self.cell.recipe.global_batch // self.world.world_size
        return draws.later(whole, self.world.rank * share)

    def _evaluate(self, epoch: int, average: bool = False) -> tuple[float, float]:
        """Top-1 and top-5 on the test set, in percent. Raises CheckFailed if a logit is not finite.

        average: the model holds the moving average of its weights, which an error then names.
        """
        predicted, broken = self._predict(self._between_batches)
        self.finite_check.logits(int(broken), self.test_loader, average, epoch, self.state.lr)
        if not average:
            self._predicted = predicted
        hits = predicted == self.test_loader.labels[:, None]
        counts = torch.stack([hits[:, 0].sum(), hits.sum()])
        top1, top5 = (counts.double() / len(self.test_loader) * 100).tolist()
        return top1, top5

    def _predict(self, each_batch: Callable[[], None]) -> tuple[Tensor, Tensor]:
        """`evaluate.predict` of all processes together."""
        found = evaluate.predict(self.state.forward, self.test_loader, len(self.dataset.classes), each_batch)
        self.world.all_sum_(list(found))
        return found

    def _between_batches(self) -> None:
        self.progress.evaluating()
        # ranks can have different numbers of batches, so only a process that is alone may stop here
        if self.stop.signal and self.world.world_size == 1:
            raise _Interrupted

    def _request(self) -> int:
        """The most urgent request of any rank before the next step."""
        due = _Request.SAVE if time.perf_counter() - self._saved_at > SAVE_S else _Request.NOTHING
        return self.world.all_max(_Request.STOP if self.stop.signal else due, self.device)

    def _lr(self, epoch: int, step: int = 0) -> float:
        return optim.learning_rate(self.cell.recipe, epoch, step, self.epoch_steps)

    @property
    def _steps_done(self) -> int:
        return len(self.history.epochs) * self.epoch_steps + self.history.epoch_so_far.steps

    def position(self) -> str:
        """The progress so far, such as `epoch 3 of 12, step 80 of 97`."""
        done = self.history.epoch_so_far.steps
        within = f", step {done} of {self.epoch_steps}" if done else ""
        return f"epoch {len(self.history.epochs) + bool(done)} of {self.cell.recipe.epochs}{within}"

    def _save(self) -> None:
        """Write a checkpoint. If any value is not finite, raises CheckFailed and leaves the previous one in place."""
        self.meter.lap()
        self.finite_check.state(self.state.tensors(), self.position(), self.state.lr)
        if self.world.is_main:
            self._renew_lock()
            self._write_checkpoint()
            self._write_epochs_so_far()
        self.progress.checkpoint(len(self.history.epochs), self.history.epoch_so_far.steps)
        self._saved_at = time.perf_counter()

    def _write_checkpoint(self) -> None:
        data_identity = self.dataset.identity.sequence
        checkpoint.write(self.folder, self.cell, data_identity, self.history, self.state.state_dict())

    def _renew_lock(self) -> None:
        """Raises InputError if the folder was deleted meanwhile and another training has taken it."""
        if self.lock is not None and self.lock.renew():
            self.progress.say(f"{self.cell.id}: {self.folder} was deleted meanwhile; it is written anew")

    def _resume(self) -> None:
        """Resume from the newest intact checkpoint of this training; rename those that are damaged or of another."""
        saved, rejected = checkpoint.newest(self.folder, self.device, self._mismatch)
        if saved is not None:
            self.state.load_state_dict(saved)
            self.history = History.from_dict(saved["history"])
        self.world.barrier(self.device)  # rank 0 renames files only after every rank has read them
        if self.world.is_main:
            for path, why, reason in rejected:
                self.progress.say(f"{self.cell.id}: {reason}; renamed to {checkpoint.archive(path, why).name}")
        if saved is not None:
            self.progress.say(f"{self.cell.id}: resuming after {self.position()}")
            self.progress.checkpoint(len(self.history.epochs), self.history.epoch_so_far.steps)
            if self.history.epochs:
                self.progress.epoch(self.history.epochs[-1]["top1"])
        elif rejected:
            self.progress.say(f"{self.cell.id}: starting anew")
        # a network file system may show new files late
        if self.world.all_max(self._steps_done, self.device) != self._steps_done:
            raise CheckFailed(
                f"{self.cell.id}: another node sees a newer checkpoint than {self.position()}; run the command again"
            )

    def _mismatch(self, saved: Mapping[str, Any]) -> str | None:
        own, identity = self.state.state_dict(), self.dataset.identity.sequence
        return checkpoint.mismatch(saved, self.cell, identity, own, self.state.optimizer, self.init, self.epoch_steps)

    def _finish(self) -> Row | None:
        """Write the row and the files beside it, and rename the checkpoint to weights.pt."""
        self.progress.evaluating()
        lengths, top5 = result.lengths_of(self), self._predicted
        if top5 is None:  # the last epoch was over before this run
            top5, _ = self._predict(self.progress.evaluating)
        if not self.world.is_main:
            return None
        try:
            row = result.row_of(self, lengths)
        except ValidationError as error:  # of a checkpoint that was tampered with, or a clock that was set back
            reason = error.errors()[0]["msg"].removeprefix("Value error, ")
            raise CheckFailed(
                f"{self.cell.id}: its row would contradict itself ({reason}); the checkpoint stays"
            ) from None
        self._renew_lock()
        if not (self.folder / checkpoint.NAME).exists():  # deleted since the last epoch
            self._write_checkpoint()
        write_epochs(self.history.epochs, self.folder / "epochs.csv")
        write_steps(self._steps_csv(), self.folder / "steps.csv")
        images, _ = next(iter(self.test_loader))
        write_tokens(token_record(self.model, images, self.state.autocast), self.folder / tokens.NAME)
        made = Predictions(top5.cpu().numpy(), self.dataset.test_labels)
        predictions.write_predictions(made, row.data, self.folder / predictions.NAME)
        write_row(row, self.folder / "row.json")
        checkpoint.finish(self.folder)  # from here on nothing can be resumed
        self.progress.end(row)
        return row

    def _write_epochs_so_far(self) -> None:
        """Show the epochs as they end. A result that is to be replaced keeps its own until then."""
        if not (self.folder / "row.json").exists():
            write_epochs(self.history.epochs, self.folder / "epochs.csv")

    def _steps_csv(self) -> Iterator[dict[str, float]]:
        for number, loss in enumerate(self.history.losses):
            epoch, step = divmod(number, self.epoch_steps)
            yield {"epoch": epoch, "step": step, "lr": self._lr(epoch, step), "loss": loss}


class _Interrupted(Exception):
    """Unwinds to where the model holds its own weights, not the moving average, so a checkpoint can be saved."""
