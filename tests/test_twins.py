"""Every decoder trains and validates on the synthetic twin of every dataset, with its overlay."""

from pathlib import Path

import pytest
import yaml
from tiny import two_steps

from segbench.__main__ import main

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
OVERLAYS = sorted(path.stem for path in (EXPERIMENTS / "data").glob("*.yaml"))
DECODERS = ["linear", "mask", "meanshift", "patch_unet", "attention_unet_vit"]
# Every dataset and every decoder at least once; other combinations are slow tests.
FAST = {(DECODERS[i % len(DECODERS)], overlay) for i, overlay in enumerate(OVERLAYS)}

PAIRS = [
    pytest.param(decoder, overlay, marks=() if (decoder, overlay) in FAST else pytest.mark.slow)
    for decoder in DECODERS
    for overlay in OVERLAYS
]


@pytest.mark.slow
@pytest.mark.parametrize(("decoder", "overlay"), PAIRS)
def test_decoder_trains_and_validates_on_the_twin(decoder, overlay, twins, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    experiment = yaml.safe_load((EXPERIMENTS / f"{decoder}.yaml").read_text())
    Path("small.yaml").write_text(two_steps(experiment, twins(overlay)))
    configs = [EXPERIMENTS / f"{decoder}.yaml", EXPERIMENTS / "data" / f"{overlay}.yaml", "small.yaml"]
    main(["fit", *(word for config in configs for word in ("--config", str(config)))])
    (run,) = Path("runs").glob("*/*")
    assert (run / "checkpoints" / "last.ckpt").is_file()
    rows = (run / "metrics.csv").read_text().splitlines()
    assert "val/miou" in rows[0]
    assert list((run / "panels").glob("val-step000002-*.png"))


def test_fast_combinations_cover_every_decoder_and_dataset():
    assert {decoder for decoder, _ in FAST} == set(DECODERS)
    assert {overlay for _, overlay in FAST} == set(OVERLAYS)
    assert len(OVERLAYS) >= 7
