"""Every experiment trains and validates on the synthetic twin of every dataset, by the dataset's overlay."""

from pathlib import Path

import pytest
import yaml

from segbench.__main__ import main
from segbench.commands.synth import synth

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
OVERLAYS = sorted(path.stem for path in (EXPERIMENTS / "data").glob("*.yaml"))
DECODERS = ["linear", "mask", "meanshift", "patch_unet", "attention_unet_vit"]
# Every dataset once and every decoder once; the others take as long again for each.
FAST = {(DECODERS[i % len(DECODERS)], overlay) for i, overlay in enumerate(OVERLAYS)}

SMALL = {
    "model": {
        "init_args": {
            "encoder": {"init_args": {"pretrained": False, "depths": [0]}},  # one block
            "schedule": {"init_args": {"warmup_steps": 0}},
            "window": None,
            "stride": None,
            "resize": None,
        }
    },
    "data": {"init_args": {"img_size": [32, 32], "scale": None, "batch_size": 2, "num_workers": 0}},
    "trainer": {
        "accelerator": "cpu",
        "devices": 1,
        "max_steps": 2,
        "val_check_interval": 2,
        "num_sanity_val_steps": 0,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    },
}


PAIRS = [
    pytest.param(decoder, overlay, marks=() if (decoder, overlay) in FAST else pytest.mark.slow)
    for decoder in DECODERS
    for overlay in OVERLAYS
]


@pytest.fixture(scope="session")
def twins(tmp_path_factory):
    """Writes each twin once, and says by which option it is named."""
    folder = tmp_path_factory.mktemp("twins")

    def options(overlay):
        if overlay == "synthetic":  # draws itself
            return {"image_size": [64, 64], "num_images": {"train": 4, "val": 2, "test": 2}}
        if not (folder / overlay).is_dir():
            synth(overlay, folder / overlay, images=4, size=(64, 64))
        return {"root": str(folder / overlay)}

    return options


@pytest.mark.parametrize(("decoder", "overlay"), PAIRS)
def test_trains_and_validates_on_the_twin(decoder, overlay, twins, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = SMALL | {"data": {"init_args": SMALL["data"]["init_args"] | twins(overlay)}}
    Path("small.yaml").write_text(yaml.safe_dump(small))
    configs = [EXPERIMENTS / f"{decoder}.yaml", EXPERIMENTS / "data" / f"{overlay}.yaml", "small.yaml"]
    main(["fit", *(word for config in configs for word in ("--config", str(config)))])
    (run,) = Path("runs").glob("*/*")
    assert (run / "checkpoints" / "last.ckpt").is_file()
    rows = (run / "metrics.csv").read_text().splitlines()
    assert "val/miou" in rows[0]
    assert list((run / "panels").glob("val-step000002-*.png"))


def test_the_fast_ones_have_every_decoder_and_every_dataset():
    assert {decoder for decoder, _ in FAST} == set(DECODERS)
    assert {overlay for _, overlay in FAST} == set(OVERLAYS)
    assert len(OVERLAYS) >= 7
