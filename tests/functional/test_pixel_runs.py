import pytest
import torch
import torch.nn.functional as F

from segbench.functional.pixel_runs import fold_, interpolate, sort_into_runs

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("size", "out_size", "length"), [(4, 64, 16), (4, 64, 5), (1, 9, 4), (5, 5, 1), (9, 4, 1), (5, 13, 3)]
)
def test_every_pixel_is_real_once_and_interpolated_as_torch_does(size, out_size, length):
    runs = sort_into_runs(size, out_size, out_size, length, CPU, torch.float64)
    assert runs.pixel.shape == (len(runs.lower), length)
    assert runs.pixel[runs.real].tolist() == list(range(out_size))
    cells = torch.randn(size, dtype=torch.float64, requires_grad=True)
    pixels = interpolate(cells[runs.lower, None], cells[runs.upper, None], runs.share)[runs.real]
    theirs = F.interpolate(cells[None, None], out_size, mode="linear")[0, 0]
    torch.testing.assert_close(pixels, theirs, rtol=0, atol=1e-12)

    upstream = torch.randn(out_size, dtype=torch.float64)
    grad = torch.zeros_like(runs.share).masked_scatter_(runs.real, upstream)
    lower, upper = fold_(grad, runs.share, dim=1)
    ours = (
        torch.zeros(size, dtype=torch.float64).index_add_(0, runs.lower, lower).index_add_(0, runs.upper, upper)
    )
    torch.testing.assert_close(ours, torch.autograd.grad(theirs, cells, upstream)[0], rtol=0, atol=1e-12)


def test_pixels_that_are_not_wanted_are_left_out():
    whole, part = (sort_into_runs(4, 64, visible, 16, CPU, torch.float64) for visible in (64, 41))
    assert part.pixel[part.real].tolist() == list(range(41))
    torch.testing.assert_close(part.share[part.real], whole.share[whole.real][:41], rtol=0, atol=0)
