from functools import partial

import pytest
import torch
from torch.nn import functional as F

from segbench.commands.bench.timing import peak_bytes
from segbench.functional.separable_resampler import bilinear_map, chain, reverse, tiles, windows_map
from segbench.kernels import native
from segbench.kernels import upsample_argmax as module
from segbench.kernels.upsample_argmax import argmax_tiles, upsample_argmax

BACKENDS = ["auto", "plain", "chunked", *(["native"] if native.available() else [])]
compiled = pytest.mark.skipif(not native.available(), reason="no C compiler")


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


def by_both(cells, rows, columns):
    """Returns the labels of the native and of the chunked backend."""
    size = (len(rows.source), len(columns.source))
    found = [torch.full(size, 99, dtype=module.label_dtype(cells.shape[1])) for _ in range(2)]
    for backend, out in zip(("native", "chunked"), found, strict=True):
        argmax_tiles(cells, rows, columns, out=out, backend=backend)
    return found


def maps_of(kind):
    """Returns a map and the number of its cells."""
    if kind == "up":
        return bilinear_map(9, 143), 9
    if kind == "down":
        return bilinear_map(61, 23), 61
    if kind == "odd factor":
        return bilinear_map(12, 36), 12  # every third pixel lies on a cell
    windows = windows_map([0, 16, 32, 49], 48, 3, 48)  # up to three windows on a pixel
    if kind == "windows":
        return windows, 12
    return reverse(chain(windows, bilinear_map(97, 150))), 12


KINDS = ["up", "down", "odd factor", "windows", "windows, resized, mirrored"]


@compiled
@pytest.mark.parametrize("num_classes", [3, 150])
@pytest.mark.parametrize("across", KINDS)
@pytest.mark.parametrize("down", KINDS)
def test_native_names_what_chunked_names_ties_included(down, across, num_classes):
    (rows, height), (columns, width) = maps_of(down), maps_of(across)
    generator = torch.Generator().manual_seed(num_classes)
    random = torch.randn(height, num_classes, width, generator=generator)
    whole = torch.randint(-2, 3, random.shape, generator=generator).float()  # many classes tie on pixels
    smooth = F.interpolate(random[:, :, None, :4].transpose(0, 2)[0][None], (height, width), mode="bicubic")
    for cells in (random, whole, smooth[0].transpose(0, 1), random.bfloat16(), random.double().float() * 1e-40):
        native_labels, chunked_labels = by_both(cells, rows, columns)
        assert torch.equal(native_labels, chunked_labels)


@compiled
def test_a_class_ahead_by_one_rounding_step_everywhere_is_named():
    low = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    logits = torch.cat((low, torch.nextafter(low, torch.tensor(torch.inf))), 1)
    assert (upsample_argmax(logits, (133, 97), backend="native") == 1).all()


@compiled
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_logits_that_are_no_numbers_are_left_to_torch(value):
    logits = random_logits(1, 20, 9, 9)
    logits[0, 7, 3, 4] = value
    found = upsample_argmax(logits, (50, 40), backend="native")
    assert torch.equal(found, upsample_argmax(logits, (50, 40), backend="chunked"))


@compiled
def test_threads_leave_no_trace(monkeypatch):
    logits = random_logits(1, 20, 9, 9)
    expected = upsample_argmax(logits, (150, 140), backend="native")
    monkeypatch.setattr(module, "PART_PIXELS", 100)
    for threads in (1, 2, 50):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        assert torch.equal(upsample_argmax(logits, (150, 140), backend="native"), expected)


@compiled
def test_agreement_saves_nearly_all_arithmetic_and_a_wide_margin_too(monkeypatch):
    """Unless it does, garbage in the weights between agreeing cells would show."""
    logits = torch.zeros(1, 3, 2, 2)
    logits[:, 1] = 1
    rows = bilinear_map(2, 30)
    rows.weight[:] = torch.nan
    out = torch.empty(30, 30, dtype=torch.uint8)
    argmax_tiles(logits[0].transpose(0, 1), rows, bilinear_map(2, 30), out=out, backend="native")
    assert (out == 1).all()


def test_environment_prefers_and_an_argument_insists(monkeypatch):
    logits = random_logits(1, 5, 4, 4, dtype=torch.float64)
    with pytest.raises(ValueError, match="backend is 'native'; here there are auto, chunked, plain"):
        upsample_argmax(logits, (8, 8), backend="native")
    monkeypatch.setenv("SEGBENCH_KERNELS", "native")
    assert torch.equal(upsample_argmax(logits, (8, 8)), upsample_argmax(logits, (8, 8), backend="plain"))
    monkeypatch.setenv("SEGBENCH_KERNELS", "fast")
    with pytest.raises(ValueError, match="SEGBENCH_KERNELS is 'fast'; choose auto, plain, chunked, native"):
        upsample_argmax(logits, (8, 8))


@pytest.mark.parametrize("backend", ["plain", "chunked", "native"])
def test_the_environment_is_obeyed(backend, monkeypatch):
    if backend == "native" and not native.available():
        pytest.skip("no C compiler")
    called = []
    monkeypatch.setattr(module, "_argmax_native", lambda *_: called.append("native"))
    monkeypatch.setattr(module, "_argmax_of_mixed", lambda *_: called.append("chunked"))
    monkeypatch.setenv("SEGBENCH_KERNELS", backend)
    upsample_argmax(random_logits(1, 5, 4, 4), (8, 8))
    assert called == {"plain": [], "chunked": ["chunked"], "native": ["native", "chunked"]}[backend]


@pytest.mark.parametrize("variable", ["plain", "chunked"])
def test_the_environment_keeps_tiles_off_native_code(variable, monkeypatch):
    monkeypatch.setenv("SEGBENCH_KERNELS", variable)
    monkeypatch.setattr(module, "_argmax_native", None)
    cells, out = random_logits(4, 5, 4), torch.empty(8, 8, dtype=torch.uint8)
    argmax_tiles(cells, bilinear_map(4, 8), bilinear_map(4, 8), out=out)
    full = F.interpolate(cells.transpose(0, 1)[None], (8, 8), mode="bilinear")
    assert torch.equal(out.long(), full.argmax(1)[0])


@compiled
def test_scratch_is_as_large_as_c_takes_it_whatever_the_default_type(monkeypatch):
    before, asked, empty = torch.get_default_dtype(), [], torch.empty
    monkeypatch.setattr(torch, "empty", lambda *a, **k: asked.append(empty(*a, **k)) or asked[-1])
    torch.set_default_dtype(torch.bfloat16)  # as inside a step under `precision: bf16-true`
    try:
        logits = random_logits(1, 150, 4, 4, dtype=torch.float32)
        labels = upsample_argmax(logits, (64, 64), backend="native")
    finally:
        torch.set_default_dtype(before)
    assert torch.equal(labels, upsample_argmax(logits, (64, 64), backend="plain"))
    assert asked
    assert not any(tensor.dtype == torch.bfloat16 for tensor in asked)


@pytest.mark.parametrize(("grid", "size"), [((6, 5), (96, 80)), ((7, 9), (50, 31)), ((20, 16), (9, 7))])
def test_only_pixels_between_cells_that_do_not_agree_are_computed(grid, size, monkeypatch):
    """Computed pixels are counted; half of the cells name one class, half another, side by side."""
    logits = random_logits(1, 5, *grid)
    logits[:, 1, :, : grid[1] // 2] += 20
    logits[:, 3, :, grid[1] // 2 :] += 20
    computed = []

    def count(cells, rows, columns, tile_bytes):
        computed.append(len(rows.source) * len(columns.source))
        return tiles(cells, rows, columns, tile_bytes)

    monkeypatch.setattr(module, "tiles", count)
    labels = upsample_argmax(logits, size, backend="chunked")
    assert torch.equal(labels, upsample_argmax(logits, size, backend="plain"))
    height, width = size
    border = (torch.arange(width) + 0.5) * grid[1] / width - 0.5  # in cells; those left of the border end here
    between = ((border > grid[1] // 2 - 1) & (border < grid[1] // 2)).sum().item()
    assert sum(computed) == height * between


def test_without_a_compiler_memory_does_not_grow_with_the_labels():
    """Where logits are resized twice nearly each row is made of other cells than its neighbours."""
    logits = random_logits(1, 5, 16, 16)[0].transpose(0, 1)
    peaks = []
    for size in (400, 800):
        axis = chain(bilinear_map(16, 256), bilinear_map(256, size))
        out = torch.empty(size, size, dtype=torch.uint8)
        label = partial(argmax_tiles, logits, axis, axis, out=out, tile_bytes=2**16, backend="chunked")
        peaks.append(peak_bytes(label, torch.device("cpu")))
        plain = module._first_largest(torch.cat([tile.values for tile in tiles(logits, axis, axis, 2**30)]))
        assert torch.equal(out.long(), plain)
    assert peaks[1] < 2**20
    assert peaks[1] < 2.2 * peaks[0]
