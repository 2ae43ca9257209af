"""What a terminal shows during a training."""

from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from tiny import overlay, vit
from torch import nn

from segbench.__main__ import main
from segbench.callbacks.progress import ModelSummary, ProgressBar


class Net(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(3, 5)
        self.encoder.requires_grad_(False)
        self.necks = nn.Sequential(nn.Identity())
        self.decoder = nn.Linear(5, 2)
        self.losses = nn.ModuleList([nn.CrossEntropyLoss()])

    def training_step(self, batch, _):
        loss = self.decoder(self.encoder(batch)).sum()
        self.log("loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.decoder.parameters(), 0.1)


class Seen(ProgressBar):
    def __init__(self):
        super().__init__()
        self.shown, self.told = [], set()

    def get_metrics(self, trainer, pl_module):
        self.shown.append(super().get_metrics(trainer, pl_module))
        return self.shown[-1]

    def _get_train_description(self, current_epoch):
        told = super()._get_train_description(current_epoch)
        self.told.add(told.strip())
        return told


def train(tmp_path, **length):
    bar = Seen()
    trainer = L.Trainer(
        **length,
        accelerator="cpu",
        default_root_dir=tmp_path,
        logger=TensorBoardLogger(tmp_path, version="a-name-of-a-logger"),
        callbacks=[bar, ModelSummary()],
        enable_checkpointing=False,
        enable_model_summary=False,
        log_every_n_steps=1,
    )
    trainer.fit(Net(), torch.utils.data.DataLoader(torch.zeros(4, 3), batch_size=2, num_workers=0))
    return bar


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_a_training_of_steps_counts_them(tmp_path, capsys):
    bar = train(tmp_path, max_steps=4, max_epochs=-1)
    assert bar.told == {"Epoch 0", "Epoch 1"}
    assert bar.shown[-1]["step"] == "4 of 4"
    assert {"step", "loss"} == set(bar.shown[-1])  # no version of the logger
    rows = [line.strip("│ \n").split() for line in capsys.readouterr().out.splitlines() if "│" in line]
    assert [[cell for cell in row if cell != "│"] for row in rows] == [
        ["encoder", "Linear", "20", "0"],
        ["necks.0", "Identity", "0", "0"],
        ["decoder", "Linear", "12", "12"],
        ["model", "Net", "32", "12"],
    ]


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_one_of_epochs_counts_epochs(tmp_path):
    bar = train(tmp_path, max_epochs=2)
    assert bar.told == {"Epoch 0/1", "Epoch 1/1"}
    assert "step" not in bar.shown[-1]


@pytest.mark.parametrize("wanted", [True, False])
def test_the_table_of_parts_is_shown_once_and_can_be_left_out(tmp_path, monkeypatch, capfd, wanted):
    monkeypatch.chdir(tmp_path)
    scenes = {"num_images": {"train": 2, "val": 1, "test": 1}}
    (tmp_path / "tiny.yaml").write_text(overlay(scenes, {"encoder": vit()}, max_steps=1))
    linear = Path(__file__).parents[2] / "experiments" / "linear.yaml"
    shown = f"--trainer.enable_model_summary={str(wanted).lower()}"
    main(["fit", "--config", str(linear), "--config", "tiny.yaml", shown])
    told = capfd.readouterr()
    assert told.out.count("decoder") == wanted
    assert "FLOPs" not in told.out
    assert "model summary" not in told.out + told.err
