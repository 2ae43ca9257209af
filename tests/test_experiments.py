"""The experiments that are compared with each other differ in decoder, necks and losses alone."""

from pathlib import Path

import pytest

from segbench.training.arguments import resolve_config
from segbench.training.resume import differences

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
REFERENCE = "linear"
COMPARED = ("model.init_args.decoder.", "model.init_args.necks", "model.init_args.losses")
# They repeat the training of an article, which has another encoder, dataset, optimiser or schedule.
AS_PUBLISHED = {
    "attention_unet": "its own convolutional encoder, DeepFashion, AdamW at a constant rate, 16 epochs",
    "patch_unet_original": "its own patch encoder, colour regression on Cityscapes pairs, AdamW, 100 epochs",
}


def config(name):
    return resolve_config(["fit", "--config", str(EXPERIMENTS / f"{name}.yaml")])


@pytest.fixture(scope="module")
def reference():
    return config(REFERENCE)


@pytest.mark.parametrize("name", sorted(path.stem for path in EXPERIMENTS.glob("*.yaml")))
def test_experiments_differ_from_the_linear_decoder_in_decoder_necks_and_losses_alone(name, reference):
    other = [key for key, *_ in differences(config(name), reference) if not key.startswith(COMPARED)]
    if name in AS_PUBLISHED:
        parts = {key.split(".")[2] for key in other if key.startswith("model.init_args.")}
        assert {"encoder", "optimizer"} <= parts
        assert any(key.startswith("data.") for key in other)
    else:
        assert other == []


@pytest.mark.parametrize("name", AS_PUBLISHED)
def test_an_experiment_that_differs_in_more_says_why_in_its_first_lines(name):
    lines = (EXPERIMENTS / f"{name}.yaml").read_text().splitlines()
    comment = " ".join(line for line in lines[:4] if line.startswith("#"))
    assert "article" in comment or "report" in comment
