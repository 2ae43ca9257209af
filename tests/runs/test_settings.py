"""Settings in a few words."""

import pytest

from segbench.data.base import SegmentationDataModule
from segbench.parsing.names import class_names, init_options
from segbench.runs.settings import Effect, effect_of, format_value, is_classified, last_key
from segbench.tasks.base import Task
from segbench.training.parser import verb_parsers

SHIFT = {"class_path": "segbench.necks.mean_shift.MeanShift", "init_args": {"iterations": 2, "bias": False}}


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ([SHIFT, {"class_path": "a.b.Linear"}], "[MeanShift(iterations=2, bias=false), Linear]"),
        (None, "null"),
        (1e-05, "1e-05"),
        (3, "3"),
        ({"val": 0.1, "x": [True, "a b"]}, "{val: 0.1, x: [true, a b]}"),
        ("torch.optim.AdamW", "AdamW"),
        ("experiments/linear.yaml", "experiments/linear.yaml"),
        ("data.2.v", "data.2.v"),
    ],
)
def test_a_value_is_written_short(value, told):
    assert format_value(value) == told


def test_a_key_is_named_by_its_end():
    assert last_key("model.init_args.optimizer.init_args.lr") == "lr"
    assert last_key("model.init_args.decoder.class_path") == "decoder"
    assert last_key("model.init_args.necks.0.class_path") == "necks.0"
    assert last_key("seed_everything") == "seed_everything"


def test_the_table_classifies_every_option_of_fit_and_of_our_tasks_and_data_modules():
    parsers = verb_parsers()
    options = {action.dest for parser in parsers.values() for action in parser._actions}
    groups = {"checkpoints", "panels", "predictions", "start", "trainer", "model", "data"}  # of options
    options -= groups | {"config", "help", "print_config"}
    options = {option for option in options if not option.endswith(".help")}
    for name, base in (("model", Task), ("data", SegmentationDataModule)):
        for cls in class_names([base]).values():
            if cls.__module__.startswith("segbench."):
                options |= {f"{name}.init_args.{option}" for option in init_options(cls)}
    assert len(options) > 100
    assert sorted(option for option in options if not is_classified(option)) == []


def test_effects_of_common_options():
    assert effect_of("trainer.max_steps") is Effect.WEIGHTS
    assert effect_of("model.init_args.decoder.init_args.depth") is Effect.WEIGHTS
    assert effect_of("model.init_args.stride") is Effect.SCORES
    assert effect_of("trainer.limit_val_batches") is Effect.SCORES
    assert effect_of("data.init_args.seed") is Effect.SEED
    for key in ("panels.num_images", "trainer.log_every_n_steps", "checkpoints.every_n_steps", "runs_dir"):
        assert effect_of(key) is Effect.NONE
    assert effect_of("model.init_args.windows_per_batch") is Effect.NONE


def test_an_option_of_a_foreign_class_counts_as_one_that_changes_weights():
    assert effect_of("data.init_args.my_own_option") is Effect.WEIGHTS
    assert not is_classified("data.init_args.my_own_option")
