"""Label maps of `segbench predict`: none may take the place of another."""

from types import SimpleNamespace

import numpy as np
import pytest

from segbench.callbacks.predictions import PredictionFiles
from segbench.data.folder import FolderDataModule
from segbench.data.io.files import write_image


@pytest.mark.parametrize(("one", "other", "file"), [("a/b", "a__b", "a__b"), ("x y", "x+y", "x_y")])
def test_images_whose_predictions_would_have_one_name_are_refused(tmp_path, one, other, file):
    data = FolderDataModule(tmp_path, classes=["sky", "road"], num_workers=0)
    trainer = SimpleNamespace(datamodule=data)
    for name in (one, "c"):
        write_image(tmp_path / f"images/predict/{name}.png", np.zeros((4, 6, 3), np.uint8))
    PredictionFiles().on_predict_start(trainer, None)
    data = FolderDataModule(tmp_path, classes=["sky", "road"], num_workers=0)
    write_image(tmp_path / f"images/predict/{other}.png", np.zeros((4, 6, 3), np.uint8))
    with pytest.raises(ValueError, match=rf"both become {file}\.png: rename one"):
        PredictionFiles().on_predict_start(SimpleNamespace(datamodule=data), None)
