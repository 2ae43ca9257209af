import pytest
import torch
import torch.nn.functional as F

from segbench.functional.resize import bilinear_taps, resampling_matrix

SIZES = [(4, 64), (32, 512), (1, 7), (7, 1), (5, 5), (9, 4), (4, 9), (37, 518), (3, 100), (64, 63), (128, 683)]


@pytest.mark.parametrize(("size", "out_size"), SIZES)
def test_taps_interpolate_as_torch_does(size, out_size):
    values = torch.randn(3, size, dtype=torch.float64)
    taps = bilinear_taps(size, out_size, dtype=torch.float64)
    ours = (1 - taps.weight) * values[:, taps.lower] + taps.weight * values[:, taps.upper]
    theirs = F.interpolate(values[None], out_size, mode="linear", align_corners=False)[0]
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("size", "out_size"), SIZES)
def test_taps_stay_inside_and_in_order(size, out_size):
    taps = bilinear_taps(size, out_size, dtype=torch.float32)
    assert taps.lower.min() >= 0
    assert taps.upper.max() < size
    assert (taps.lower.diff() >= 0).all()
    assert ((taps.upper - taps.lower) <= 1).all()
    assert taps.weight.dtype == torch.float32
    assert ((taps.weight >= 0) & (taps.weight <= 1)).all()
    assert (taps.weight[taps.upper == taps.lower] == 0).all()


@pytest.mark.parametrize("resampling", ["bicubic-antialias", "bicubic", "bilinear"])
@pytest.mark.parametrize(
    ("size", "out_size"), [(24, 32), (24, 7), (14, 1), (1, 3), (5, 5), (37, 64), (14, 37), (24, 10)]
)
def test_matrices_do_what_interpolate_does(resampling, size, out_size):
    columns = torch.randn(1, 2, size, 4)  # a single one torch 2.15 itself takes for a row
    expected = F.interpolate(
        columns,
        (out_size, 4),
        mode=resampling.split("-")[0],
        align_corners=False,
        antialias=resampling.endswith("antialias"),
    )
    matrix = resampling_matrix(size, out_size, resampling, torch.device("cpu"))
    torch.testing.assert_close(matrix @ columns, expected, rtol=0, atol=4e-6)
