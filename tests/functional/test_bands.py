import pytest
import torch
import torch.nn.functional as F

from segbench.commands.bench.timing import peak_bytes
from segbench.functional import bands
from segbench.functional.bands import sum_over_bands

SHAPES = [  # B, C, h, w, H, W
    (2, 3, 4, 5, 32, 40),
    (1, 2, 7, 3, 50, 20),
    (2, 1, 1, 1, 9, 7),
    (1, 4, 6, 6, 6, 6),  # as they are
    (1, 2, 9, 8, 5, 4),  # downwards
    (1, 2, 5, 6, 5, 12),  # along one axis only
]


@pytest.fixture(params=[1, 700, 1 << 20], ids=["rows", "bands", "whole"])
def _band_bytes(request, monkeypatch):
    monkeypatch.setattr(bands, "BAND_BYTES_CPU", request.param)


@pytest.mark.usefixtures("_band_bytes")
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_the_sum_over_everything_upsampled(shape):
    cells = torch.randn(shape[:4], dtype=torch.float64, requires_grad=True)
    size = shape[4:]
    factor = torch.randn(shape[0], 1, *size, dtype=torch.float64)
    upstream = torch.randn(2, shape[0], dtype=torch.float64)

    def measure(band, rows):
        weighted = band.sin() * factor[:, :, rows]
        return torch.stack((weighted.sum((1, 2, 3)), weighted.square().sum((1, 2, 3))))

    ours = sum_over_bands(cells, size, measure)
    theirs = measure(F.interpolate(cells, size, mode="bilinear"), slice(None))
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(*(torch.autograd.grad(sums, cells, upstream)[0] for sums in (ours, theirs)))


@pytest.mark.usefixtures("_band_bytes")
@pytest.mark.parametrize("overlap", [1, 2])
@pytest.mark.parametrize("height", range(1, 12))
def test_overlapping_bands_hold_every_group_of_rows_once(height, overlap):
    cells = torch.zeros(1, 10, height, 16)
    seen = []

    def measure(band, rows):
        assert band.shape[2] == rows.stop - rows.start
        seen.extend(range(rows.start, rows.stop - overlap))
        seen.extend(range(max(rows.start, rows.stop - overlap), rows.stop) if rows.stop == height else [])
        return band.sum()

    sum_over_bands(cells, (height, 16), measure, overlap=overlap)
    assert seen == list(range(height))


def test_half_precision_is_added_up_in_float32_both_ways():
    def total(cells):
        return sum_over_bands(cells, (16, 16), lambda band, rows: (band @ band.mT).sum())

    half = torch.randn(1, 3, 4, 4).bfloat16().requires_grad_()
    single, plain = (half.detach().float().requires_grad_() for _ in range(2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        sums = [total(half), total(single)]
        sum(sums).backward()  # under autocast as well, where a loop of one's own may have it
    full = F.interpolate(plain, (16, 16), mode="bilinear")
    expected = (full @ full.mT).sum()
    expected.backward()
    assert sums[0].dtype == torch.float32
    torch.testing.assert_close(sums, [expected, expected])
    torch.testing.assert_close(single.grad, plain.grad)
    assert torch.equal(half.grad, single.grad.bfloat16())


def test_what_does_not_depend_on_the_cells_has_no_gradient():
    cells = torch.ones(1, 1, 2, 2, requires_grad=True)
    count = sum_over_bands(cells, (8, 8), lambda band, rows: torch.stack((band.sum(), torch.ones(()))))
    count[1].backward()
    assert cells.grad.abs().sum() == 0


def test_there_is_no_silent_second_derivative():
    cells = torch.ones(1, 1, 2, 2, requires_grad=True)
    total = sum_over_bands(cells, (4, 4), lambda band, rows: band.square().sum())
    with pytest.raises(ValueError, match="no second derivative"):
        torch.autograd.grad(total, cells, create_graph=True)


@pytest.mark.filterwarnings("ignore")  # of the profiler
def test_memory_does_not_grow_with_the_image():
    cells = torch.randn(1, 20, 16, 16, requires_grad=True)

    def peak(side):
        def work():
            sum_over_bands(cells, (side, side), lambda band, rows: band.softmax(1).square().sum()).backward()

        work()
        return peak_bytes(work, torch.device("cpu"))

    assert peak(512) < 1.3 * peak(256)
    assert peak(512) < 20 * 512 * 512 * 4 / 2  # half of the upsampled cells
