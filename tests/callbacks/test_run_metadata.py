"""run.json's figures mean what they say."""

from types import SimpleNamespace

import pytest

from segbench.callbacks import run_metadata as run_card
from segbench.callbacks.checkpoints import Checkpoints, is_best
from segbench.callbacks.run_metadata import RunMetadata


def test_step_time_is_the_pace_of_optimiser_steps_without_validation(monkeypatch):
    now = 0.0
    monkeypatch.setattr(run_card.time, "perf_counter", lambda: now)
    card = RunMetadata([])
    card._skip = 0
    trainer = SimpleNamespace(global_step=0)
    card.on_train_start(trainer, None)
    for step in range(1, 6):
        for half in range(2):  # two batches make a step; loading and computing take a second each
            now += 2.0
            trainer.global_step = step if half else step - 1
            card.on_train_batch_end(trainer, None, None, None, 0)
        if step == 3:
            now += 100.0
            card.on_validation_start(trainer, None)
    assert list(card._durations) == pytest.approx([4.0] * 3)  # 1 to 2, 2 to 3, 4 to 5


@pytest.mark.parametrize(
    ("best", "score", "expected"),
    [
        (None, 0.0, True),
        (None, float("nan"), False),
        (0.5, 0.4, False),
        (0.5, 0.6, True),
        (0.5, float("nan"), False),
    ],
)
def test_one_rule_says_what_is_best(best, score, expected):
    keeper = Checkpoints()
    keeper.best_score = best
    trainer = SimpleNamespace(checkpoint_callbacks=[keeper], callback_metrics={"val/miou": score})
    assert is_best(trainer) is expected
