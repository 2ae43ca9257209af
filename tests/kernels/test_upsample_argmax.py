import pytest
import torch
from torch.nn import functional as F

from segbench.kernels.upsample_argmax import upsample_argmax

BACKENDS = ["auto", "plain", "chunked"]


def random_logits(*shape, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((2, 5, 8, 8), (64, 64)),
        ((1, 150, 9, 13), (131, 203)),  # several tiles, odd factors
        ((3, 19, 7, 5), (7, 5)),
        ((1, 4, 40, 30), (17, 11)),  # downwards
        ((1, 3, 1, 1), (5, 9)),
        ((1, 1, 4, 6), (16, 24)),
        ((2, 300, 4, 4), (33, 31)),
    ],
    ids=str,
)
def test_agrees_with_float64(shape, size, backend):
    logits = random_logits(*shape)
    expected = F.interpolate(logits.double(), size, mode="bilinear", align_corners=False).argmax(1)
    labels = upsample_argmax(logits, size, backend=backend)
    assert labels.dtype == (torch.uint8 if shape[1] <= 256 else torch.int64)
    assert torch.equal(labels.long(), expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_bf16_logits_are_interpolated_in_float32(backend):
    logits = random_logits(1, 20, 8, 8, dtype=torch.bfloat16)
    expected = F.interpolate(logits.double(), (61, 67), mode="bilinear", align_corners=False).argmax(1)
    assert torch.equal(upsample_argmax(logits, (61, 67), backend=backend).long(), expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_lowest_of_equal_classes_wins(backend):
    half = random_logits(1, 10, 9, 7)
    twice = torch.cat((half, half), 1)  # every class has an equal, ten numbers above it
    labels = upsample_argmax(twice, (83, 129), backend=backend)
    assert torch.equal(labels, upsample_argmax(half, (83, 129)))


def test_lowest_of_equal_classes_wins_as_torch_says_it_does():
    flat = torch.zeros(1, 6, 4, 4)
    flat[:, 2:5] = 1
    assert (upsample_argmax(flat, (31, 29)) == 2).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_layout_in_memory_does_not_matter(backend):
    logits = random_logits(2, 12, 6, 10)
    strided = logits.to(memory_format=torch.channels_last)
    with torch.inference_mode():
        assert torch.equal(
            upsample_argmax(strided, (40, 50), backend=backend), upsample_argmax(logits, (40, 50))
        )


def test_refuses_what_it_cannot_read():
    with pytest.raises(ValueError, match=r"\(B, K, h, w\), got torch.float32 \(3, 4, 4\)"):
        upsample_argmax(torch.zeros(3, 4, 4), (8, 8))
    with pytest.raises(ValueError, match="float tensor"):
        upsample_argmax(torch.zeros(1, 3, 4, 4, dtype=torch.int64), (8, 8))
    with pytest.raises(ValueError, match=r"two positive numbers \(H, W\), got \(0, 8\)"):
        upsample_argmax(torch.zeros(1, 3, 4, 4), (0, 8))
