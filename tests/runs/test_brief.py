"""Settings in a few words."""

import pytest

from segbench.runs.settings import format_value, last_key

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
