"""The trials of a sweep in Optuna's storage, which any number of processes and machines share.

Every trial fills a numbered slot. All slots wait in the storage from the start, and taking one is a single
atomic change there, so that no two processes run the same. Where two of them begin a sweep at the same moment,
a slot may wait twice: the lower number counts, and the other is dropped when it is taken.
A process counts up every few seconds in each of its trials. A trial whose count another process has seen stand
still for `grace_s` waits again, with its values; its run folder, which is named after the slot, has its last
checkpoint. No times are compared between machines: clocks may differ, and be set.
"""

import contextlib
import json
import time
import warnings
from collections.abc import Iterable
from typing import Any, NamedTuple

import optuna
from optuna.trial import FrozenTrial, TrialState

from segbench.commands.sweep.file import Sweep
from segbench.commands.sweep.space import Parameter, Point, grid
from segbench.commands.sweep.storage import backend, patiently, without_password

GRACE_S = 60.0
_LEAST = 1e-6  # quantile; 0 and 1 of a bell are infinite
_LIVE = (TrialState.WAITING, TrialState.RUNNING, TrialState.COMPLETE, TrialState.PRUNED)


class Claim(NamedTuple):
    """A trial that this process runs.

    Attributes:
        slot: Its number in the sweep, from 0.
        point: Its values.
        trial: Optuna's.
    """

    slot: int
    point: Point
    trial: optuna.Trial


class Standing(NamedTuple):
    """What is known of a slot.

    Attributes:
        slot: Its number, from 0.
        state: waiting, running, complete, pruned or failed.
        point: Its values; None before they are chosen.
        value: Best value of the metric so far.
        reports: How often the metric was reported.
        seconds: How long it ran, or has been running.
        note: What went wrong.
    """

    slot: int
    state: str
    point: Point | None
    value: float | None
    reports: int
    seconds: float | None
    note: str


class Study:
    """A sweep's trials."""

    def __init__(self, sweep: Sweep, storage: str, grace_s: float | None = None) -> None:
        """Opens the study, or makes it.

        Args:
            sweep: What is searched.
            storage: URL as Optuna takes it.
            grace_s: Seconds without a heartbeat after which a running trial counts as abandoned, from when
                this process first looked; default: `GRACE_S`.

        Raises:
            ValueError: If the storage cannot be opened, or holds another sweep of this name.
        """
        self.sweep = sweep
        self.grace_s = GRACE_S if grace_s is None else grace_s
        self._heard: dict[int, tuple[int, float]] = {}  # heartbeat of others' trials, and since when it is that
        self._beats: dict[int, int] = {}  # of this process's own trials
        self._points = list(grid(sweep.parameters, sweep.name)) if sweep.method == "grid" else []
        self._study = patiently(lambda: self._open(storage))
        known = self._study.user_attrs.get("identity")
        if known is None:
            self._study.set_user_attr("identity", sweep.identity)
        elif known != sweep.identity:
            raise ValueError(
                f"the sweep '{sweep.name}' in {without_password(storage)} has another command, metric or "
                "parameters than this one; give a name for a new sweep by --study NAME"
            )

    def _open(self, storage: str) -> optuna.Study:
        pruner = (
            optuna.pruners.NopPruner()
            if self.sweep.warm_up is None
            else optuna.pruners.MedianPruner(n_warmup_steps=self.sweep.warm_up)
        )
        return optuna.create_study(
            study_name=self.sweep.name,
            storage=backend(storage),
            direction=self.sweep.goal,
            load_if_exists=True,
            sampler=optuna.samplers.RandomSampler(0),
            pruner=pruner,
        )

    def fill(self, retry_failed: bool = False) -> None:
        """Lets every slot wait that nobody runs nor has finished.

        Args:
            retry_failed: Whether that holds for trials that failed, too.
        """
        latest: dict[int, FrozenTrial] = {}
        live: set[int] = set()
        for trial in self._trials():
            slot = trial.user_attrs["slot"]
            if self._is_abandoned(trial):
                self._study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
            elif trial.state in _LIVE:
                live.add(slot)
            latest[slot] = trial
        for slot in range(self.sweep.trials):
            before = latest.get(slot)
            failed = before is not None and "error" in before.user_attrs
            if slot in live or (failed and not retry_failed):
                continue
            chosen = before is not None and len(before.params) == len(self.sweep.parameters)
            values = before.params if before is not None and chosen else self._encoded(slot)
            self._study.enqueue_trial(values, user_attrs={"slot": slot})

    def claim(self) -> Claim | None:
        """Takes a waiting slot, if there is one.

        Returns:
            The trial, with its values.
        """
        while self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            trial = self._study.ask()
            slot = trial.user_attrs.get("slot")
            # Without a slot: another process was faster, and Optuna made a trial of its own accord.
            if slot is None or self._is_double(trial.number, slot):
                self._study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)
                continue
            # Draws depend on the slot, not on who takes it nor on how often the sweep was interrupted.
            self._study.sampler = self._sampler(slot)
            try:
                self._beat(trial)
                values = {parameter.name: _suggest(trial, parameter) for parameter in self.sweep.parameters}
            except optuna.exceptions.UpdateFinishedTrialError:  # this took so long that it was given up
                continue
            return Claim(slot, self._decoded(values), trial)
        return None

    def _is_double(self, number: int, slot: int) -> bool:
        return any(
            other.number < number and other.user_attrs["slot"] == slot and other.state in _LIVE
            for other in self._trials()
        )

    def beat(self, claim: Claim) -> bool:
        """Says that a trial is alive.

        Args:
            claim: This process's.

        Returns:
            False if it was given up for dead meanwhile, and is no longer this process's.
        """
        try:
            self._beat(claim.trial)
        except optuna.exceptions.UpdateFinishedTrialError:
            return False
        return True

    def _beat(self, trial: optuna.Trial) -> None:
        self._beats[trial.number] = self._beats.get(trial.number, 0) + 1
        trial.set_user_attr("beats", self._beats[trial.number])

    def report(self, claim: Claim, number: int, value: float) -> bool:
        """Reports the metric.

        Args:
            claim: This process's.
            number: How many reports there are with this one.
            value: Of the metric.

        Returns:
            Whether the trial is to be stopped, being worse than the median of the others there.
        """
        try:
            claim.trial.report(value, number)
        except optuna.exceptions.UpdateFinishedTrialError:  # given up for dead; the next beat will tell
            return False
        return bool(claim.trial.should_prune())

    def finish(self, claim: Claim, state: str, value: float | None = None, note: str = "") -> None:
        """Ends a trial.

        Args:
            claim: This process's.
            state: complete, pruned, failed, or released for one that shall wait again.
            value: Of a complete trial.
            note: Of a failed one.
        """
        told = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED}.get(state, TrialState.FAIL)
        with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):  # another process has ended it
            if state == "failed":
                claim.trial.set_user_attr("error", note)
            values = value if told == TrialState.COMPLETE else None
            self._study.tell(claim.trial, values, state=told, skip_if_finished=True)

    def standings(self) -> list[Standing]:
        """Tells how all slots stand.

        Returns:
            Sorted by slot.
        """
        best: dict[int, FrozenTrial] = {}
        for trial in self._trials():
            slot = trial.user_attrs["slot"]
            before = best.get(slot)
            if before is None or (before.state not in _LIVE):
                best[slot] = trial
        return [self._standing(slot, trial) for slot, trial in sorted(best.items())]

    def _standing(self, slot: int, trial: FrozenTrial) -> Standing:
        reported = list(trial.intermediate_values.values())
        value = trial.value if trial.state == TrialState.COMPLETE else self.best(reported)
        begun, ended = trial.datetime_start, trial.datetime_complete
        seconds = None
        if begun is not None:
            seconds = max(0.0, (ended.timestamp() if ended else time.time()) - begun.timestamp())
        return Standing(
            slot,
            _state(trial),
            self._decoded(trial.params) if trial.params else None,
            value,
            len(reported),
            seconds,
            str(trial.user_attrs.get("error", "")),
        )

    def best(self, values: Iterable[float]) -> float | None:
        """Chooses the best value of the metric; None of none."""
        known = [value for value in values if value == value]
        if not known:
            return None
        return max(known) if self.sweep.goal == "maximize" else min(known)

    def _trials(self) -> list[FrozenTrial]:
        """Lists the trials that fill a slot, by number, but for those dropped before they had values."""
        return [
            trial
            for trial in self._study.get_trials(deepcopy=False)
            if "slot" in trial.user_attrs and (trial.params or trial.state != TrialState.FAIL)
        ]

    def _is_abandoned(self, trial: FrozenTrial) -> bool:
        if trial.state != TrialState.RUNNING:
            return False
        now, beats = time.monotonic(), int(trial.user_attrs.get("beats", 0))
        heard, since = self._heard.get(trial.number, (None, now))
        if heard != beats:
            self._heard[trial.number] = beats, now
            since = now
        return now - since > self.grace_s

    def _sampler(self, slot: int) -> optuna.samplers.BaseSampler:
        if self.sweep.method == "bayes":
            # constant_liar: several at a time shall not all try the same place.
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                return optuna.samplers.TPESampler(seed=slot, constant_liar=True)
        return optuna.samplers.RandomSampler(seed=slot)

    def _encoded(self, slot: int) -> dict[str, Any]:
        """Fixes the values of a point of the grid, as Optuna keeps them."""
        if not self._points:
            return {}
        point = self._points[slot]
        return {
            parameter.name: _text(point[parameter.name]) if parameter.choices else point[parameter.name]
            for parameter in self.sweep.parameters
        }

    def _decoded(self, values: dict[str, Any]) -> Point:
        return {
            parameter.name: _value(parameter, values[parameter.name])
            for parameter in self.sweep.parameters
            if parameter.name in values
        }


def _value(parameter: Parameter, kept: Any) -> Any:
    """Makes of what Optuna keeps what a trial is given."""
    if parameter.by_quantile:
        return parameter.at(kept)
    return json.loads(kept) if parameter.choices else parameter.rounded(kept)


def _state(trial: FrozenTrial) -> str:
    if trial.state == TrialState.FAIL:  # without an error it was interrupted, and waits again
        return "failed" if "error" in trial.user_attrs else "waiting"
    return trial.state.name.lower()


def _suggest(trial: optuna.Trial, parameter: Parameter) -> Any:
    """Lets Optuna choose a value.

    Choices are JSON, since Optuna takes `true` and 1 for the same and knows no lists.
    """
    name = parameter.name
    if parameter.by_quantile:
        return trial.suggest_float(name, _LEAST, 1 - _LEAST)
    if parameter.choices:
        return trial.suggest_categorical(name, [_text(choice) for choice in parameter.choices])
    if parameter.kind == "int":
        return trial.suggest_int(name, int(parameter.low), int(parameter.high))
    # Optuna rounds no logarithmic ranges; `Parameter.rounded` does.
    return trial.suggest_float(name, parameter.low, parameter.high, log=parameter.log)


def _text(value: Any) -> str:
    return json.dumps(value)
