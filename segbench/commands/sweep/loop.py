"""Runs the trials of a study, as many at a time as there are workers."""

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from segbench.commands.sweep.study import Claim, Study

BEAT_S = 5.0  # much more often than `Study.grace_s`


class Running(Protocol):
    """A trial that runs somewhere."""

    def poll(self) -> int | None:
        """Returns the exit status, or None while it runs."""

    def kill(self) -> None:
        """Ends it at once."""

    def reports(self, metric: str) -> list[float]:
        """Returns all values of a metric so far, oldest first."""

    def error(self) -> str:
        """Says in a line why it failed."""


class _Trial(NamedTuple):
    claim: Claim
    job: Running


class Worker:
    """Runs one trial after the other."""

    def __init__(self, study: Study, start: Callable[[Claim, int], Running], number: int) -> None:
        """Idles.

        Args:
            study: Whose trials.
            start: Starts a trial on the worker of that number.
            number: This worker's, from 0.
        """
        self._study, self._start, self._number = study, start, number
        self._now: _Trial | None = None
        self._reported = 0
        self._beaten = 0.0

    @property
    def is_idle(self) -> bool:
        """Whether nothing runs."""
        return self._now is None

    def take(self) -> Claim | None:
        """Starts a waiting trial, if there is one."""
        claim = self._study.claim()
        if claim is not None:
            self._reported, self._beaten = 0, time.monotonic()
            self._now = _Trial(claim, self._start(claim, self._number))
        return claim

    def tend(self) -> tuple[Claim, str, str] | None:
        """Looks after what runs: says that it lives, reports its metric, and ends it if it has ended.

        Returns:
            The trial, how it ended (complete, pruned, failed, lost) and a note; None while it runs.
        """
        if self._now is None:
            return None
        claim, job = self._now
        status = job.poll()  # before its last reports are read
        if time.monotonic() - self._beaten > BEAT_S:
            self._beaten = time.monotonic()
            if not self._study.beat(claim):
                note = "it was silent for so long that another process has taken it over"
                return self._end(self._now, "lost", note)
        values = job.reports(self._study.sweep.metric)
        for number in range(self._reported + 1, len(values) + 1):
            worse = self._study.report(claim, number, values[number - 1])
            if worse and status is None:
                self._reported = number
                return self._end(self._now, "pruned")
        self._reported = max(self._reported, len(values))  # a resumed run writes its last rows once more
        if status is None:
            return None
        best = self._study.best(values)
        if status == 0 and best is not None:
            return self._end(self._now, "complete", value=best)
        missing = f"it ended without any {self._study.sweep.metric} in metrics.csv"
        return self._end(self._now, "failed", missing if status == 0 else f"status {status}: {job.error()}")

    def stop(self) -> None:
        """Ends what runs; its trial waits again."""
        if self._now is not None:
            self._end(self._now, "released")

    def _end(
        self, trial: _Trial, state: str, note: str = "", value: float | None = None
    ) -> tuple[Claim, str, str]:
        trial.job.kill()
        self._now = None
        if state != "lost":
            self._study.finish(trial.claim, state, value, note)
        return trial.claim, state, note


def work(
    study: Study,
    start: Callable[[Claim, int], Running],
    workers: int,
    watch: Callable[[], None],
    say: Callable[[Claim, str, str], None],
    poll_s: float = 1.0,
) -> bool:
    """Runs trials until none waits and none runs, here or elsewhere.

    Args:
        study: Whose trials.
        start: Starts a trial on the worker of that number.
        workers: How many at a time.
        watch: Called after every round.
        say: Called with a trial, what became of it and a note, whenever one starts or ends.
        poll_s: Seconds between rounds.

    Returns:
        Whether all trials were run or stopped early, none having failed.

    Raises:
        ValueError: If a trial fails on every worker before any was completed: all others would as well.
    """
    study.fill(retry_failed=True)
    crew = [Worker(study, start, number) for number in range(workers)]
    failures = 0
    completed = sum(standing.state in ("complete", "pruned") for standing in study.standings())
    try:
        while True:
            for worker in crew:
                if worker.is_idle and (begun := worker.take()) is not None:
                    say(begun, "started", "")
                if (ended := worker.tend()) is not None:
                    claim, state, note = ended
                    say(claim, state, note)
                    failures += state == "failed"
                    completed += state in ("complete", "pruned")
                    if state == "failed" and not completed and failures >= workers:
                        raise ValueError(f"trial {claim.slot + 1} failed like all before it: {note}")
            watch()
            if all(worker.is_idle for worker in crew):
                study.fill()  # of what others have abandoned
                states = {standing.state for standing in study.standings()}
                if not states & {"waiting", "running"}:
                    return "failed" not in states
            time.sleep(poll_s)
    finally:
        for worker in crew:
            worker.stop()


def summary(study: Study) -> Sequence[str]:
    """Says in lines how a study ended: what failed, and the best trial."""
    standings = study.standings()
    lines = [f"trial {one.slot + 1} failed: {one.note}" for one in standings if one.state == "failed"]
    best = study.best(one.value for one in standings if one.state == "complete" and one.value is not None)
    for one in standings:
        if one.state == "complete" and one.value == best:
            lines.append(f"best {study.sweep.metric} {best:.4f}: trial {one.slot + 1}")
            break
    return lines
