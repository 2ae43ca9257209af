"""What a script may hand to a trained model, and what is refused with the range and shape that are expected."""

import re

import numpy as np
import pytest
import torch
from PIL import Image
from reference.tiny_tasks import write_checkpoint

import segbench
from segbench.inference.input_check import check_image

BYTES = torch.arange(3 * 40 * 56).reshape(1, 3, 40, 56).mul(7).remainder(256).to(torch.uint8)
NOT_FINITE = BYTES.float().masked_fill(BYTES == 7, float("nan"))


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    return segbench.load(write_checkpoint(tmp_path_factory.mktemp("check") / "x.ckpt", "linear"))


@pytest.mark.parametrize(
    ("image", "told"),
    [
        (BYTES.float() / 255, "from 0 to 1; .* 0 to 255, uint8 or float: multiply an image in [0, 1]"),
        (BYTES.half() / 255, "multiply an image in [0, 1]"),
        ((BYTES / 255 - 0.45) / 0.22, "do not normalize it"),
        (BYTES.double() * 257, "torch.float64 with values from 0 to 65535; .*: scale it"),
        (BYTES.int() * 16, "from 0 to 4080"),
        (BYTES.short() - 1, "from -1 to 254"),
        (BYTES.to(torch.uint16) * 257, "65535"),
        (NOT_FINITE, "NaN or infinite"),
        (BYTES.float() / 0, "NaN or infinite"),
        (BYTES > 127, "torch.bool"),
        (BYTES[0], "image[None]"),
        (BYTES[0].permute(1, 2, 0), "image.permute(2, 0, 1)[None]"),
        (BYTES.permute(0, 2, 3, 1), "image.permute(0, 3, 1, 2)"),
        (BYTES[:, :1], "image.expand(-1, 3, -1, -1)"),
        (torch.cat([BYTES, BYTES[:, :1]], 1), "image[:, :3]"),
        (BYTES[:0], "(0, 3, 40, 56)"),
        (BYTES.numpy(), "numpy.ndarray"),
        (Image.fromarray(np.zeros((4, 4, 3), np.uint8)), "PIL.Image.Image"),
        (None, "NoneType"),
    ],
)
def test_other_images_are_refused_with_what_is_expected(task, image, told):
    for use in (task.logits, task.segment, task.confidence, lambda one: list(task.predict_proba(one))):
        with pytest.raises(ValueError, match=re.escape(told).replace(r"\.\*", ".*")) as error:
            use(image)
        assert "(B, 3, H, W) of 0 to 255" in str(error.value)


@pytest.mark.parametrize(
    "kind", [torch.int16, torch.int32, torch.int64, torch.uint16, torch.float32, torch.float64]
)
def test_the_same_pixels_in_any_type_give_the_same_labels(task, kind):
    assert torch.equal(task.segment(BYTES.to(kind)), task.segment(BYTES))


def test_black_is_black_on_either_scale():
    assert check_image(torch.zeros(1, 3, 4, 4)).dtype == torch.float32
