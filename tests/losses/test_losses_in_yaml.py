"""All losses at once, by their class paths, on the real command line."""

import csv
import math
from pathlib import Path

import pytest
import yaml
from tiny import overlay, vit

from segbench.__main__ import main

EXPERIMENTS = Path(__file__).parents[2] / "experiments"

LOSSES = """
- class_path: segbench.losses.cross_entropy.CrossEntropy
- class_path: segbench.losses.clipped_cross_entropy.ClippedCrossEntropy
  init_args: {class_weights: [1, 2, 1, 1], clip: 8.0, boundary_weight: 2.0}
- class_path: segbench.losses.boundary.BoundaryBCE
  init_args: {positive_weight: 20.0}
- class_path: segbench.losses.iou.SoftIoU
  init_args: {mass_weighting: false}
- class_path: segbench.losses.dice.Dice
  init_args: {weight: 0.5}
- class_path: segbench.losses.gradient_sparsity.GradientSparsity
  init_args: {weight: 0.1, p: 0.7}
"""
TINY = overlay({}, {"encoder": vit(), "losses": yaml.safe_load(LOSSES)}, max_steps=2, limit_val_batches=0)

# The linear decoder with a boundary head, in a file of the user's own.
DECODER = """
from torch import nn
from segbench.decoders.linear import LinearDecoder
from segbench.types import Prediction

class WithBoundary(LinearDecoder):
    def __init__(self, info, num_classes: int):
        super().__init__(info, num_classes)
        self.boundary = nn.Conv2d(info.channels[-1], 1, 1)

    def forward(self, features):
        return Prediction(super().forward(features).logits, self.boundary(features.maps[-1]))
"""


@pytest.fixture
def command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Path("tiny.yaml").write_text(TINY)
    Path("decoder_with_boundary.py").write_text(DECODER)
    return ["fit", "--config", str(EXPERIMENTS / "linear.yaml"), "--config", "tiny.yaml"]


def test_each_is_logged_under_its_own_name_and_added_with_its_weight(command):
    main([*command, "--model.init_args.decoder=decoder_with_boundary.WithBoundary"])
    (path,) = Path("runs").glob("*/*/metrics.csv")
    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["train/loss"]]
    factors = {
        "cross_entropy": 1,
        "clipped_cross_entropy": 1,
        "boundary_bce": 1,
        "soft_iou": 1,
        "dice": 0.5,
        "gradient_sparsity": 0.1,
    }
    assert len(rows) == 2
    for row in rows:
        values = {name: float(row[f"train/{name}"]) for name in factors}
        assert all(math.isfinite(value) and value > 0 for value in values.values())
        total = sum(factor * values[name] for name, factor in factors.items())
        assert float(row["train/loss"]) == pytest.approx(total, rel=1e-5)


def test_a_decoder_without_boundary_is_refused_in_one_line(command, capsys):
    with pytest.raises(SystemExit):
        main(command)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("segbench: error: ")]
    assert "BoundaryBCE needs a decoder with a boundary head, such as" in line
