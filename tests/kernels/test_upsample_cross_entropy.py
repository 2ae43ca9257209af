import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as some
from reference.slow_upsample_cross_entropy import slow_upsample_cross_entropy

from segbench.commands.bench.timing import peak_bytes
from segbench.kernels import native
from segbench.kernels.upsample_cross_entropy import c_kernel as native_upsample_cross_entropy
from segbench.kernels.upsample_cross_entropy import chunked, upsample_cross_entropy

compiled = pytest.mark.skipif(not native.available(), reason="no C compiler")
BACKENDS = ["plain", "chunked", pytest.param("native", marks=compiled)]
FUSED = BACKENDS[1:]
HERE = ["plain", "chunked"] + ["native"] * native.available()
SHAPES = [  # B, K, h, w, H, W
    (2, 5, 4, 4, 64, 64),
    (1, 150, 3, 2, 31, 33),
    (2, 1, 3, 5, 10, 17),
    (3, 2, 5, 5, 5, 5),
    (1, 3, 1, 1, 70, 9),
    (1, 4, 1, 6, 8, 50),
    (2, 4, 7, 9, 5, 4),  # downwards
    (1, 7, 9, 3, 13, 3),
    (2, 19, 13, 10, 100, 101),
]


def problem(shape, dtype=torch.float64, scale=3.0, ignored=0.2):
    batch, num_classes, height, width, out_height, out_width = shape
    generator = torch.Generator().manual_seed(sum(shape))
    logits = scale * torch.randn(batch, num_classes, height, width, generator=generator, dtype=torch.float64)
    target = torch.randint(num_classes, (batch, out_height, out_width), generator=generator, dtype=torch.uint8)
    target[torch.rand(target.shape, generator=generator) < ignored] = 255
    weight = torch.rand(num_classes, generator=generator, dtype=torch.float64) + 0.1
    return logits.to(dtype).requires_grad_(), target, weight.to(dtype)


def torch_loss(logits, target, **options):
    full = F.interpolate(logits, target.shape[1:], mode="bilinear", align_corners=False)
    return F.cross_entropy(full, target.long(), ignore_index=255, **options)


def suited(logits, backend):
    """The logits as the backend takes them."""
    return logits.detach().float().requires_grad_() if backend == "native" else logits


def value_and_gradient(loss, logits):
    return loss.detach(), torch.autograd.grad(loss, logits)[0]


@pytest.fixture(params=[None, 2000], ids=["one band", "many bands"])
def band_bytes(request, monkeypatch):
    if request.param:
        monkeypatch.setattr(chunked, "BAND_BYTES_CPU", request.param)
        monkeypatch.setattr(native_upsample_cross_entropy, "_PART_WORK", 1)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shape", [(2, 3, 2, 3, 7, 8), (1, 4, 3, 1, 6, 5), (1, 2, 4, 4, 3, 3)], ids=str)
def test_agrees_with_the_loss_pixel_by_pixel(shape, weighted, smoothing, backend):
    logits, target, weight = problem(shape)
    weight = weight if weighted else None
    slow = slow_upsample_cross_entropy(
        logits.detach().numpy(), target.numpy(), 255, None if weight is None else weight.numpy(), smoothing
    )
    logits = suited(logits, backend)
    ours = upsample_cross_entropy(logits, target, weight=weight, label_smoothing=smoothing, backend=backend)
    assert ours.item() == pytest.approx(slow, abs=1e-12 if logits.dtype == torch.float64 else 1e-6)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.usefixtures("band_bytes")
def test_agrees_with_torch_in_value_and_gradient(shape, weighted, smoothing, dtype, tolerance):
    logits, target, weight = problem(shape, dtype)
    options = {"weight": weight if weighted else None, "label_smoothing": smoothing}
    expected, expected_gradient = value_and_gradient(torch_loss(logits, target, **options), logits)
    for backend in HERE if dtype == torch.float32 else HERE[:2]:
        value, gradient = value_and_gradient(
            upsample_cross_entropy(logits, target, backend=backend, **options), logits
        )
        torch.testing.assert_close(value, expected, rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(gradient, expected_gradient, rtol=tolerance, atol=tolerance * 0.1)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("scale", [100.0, 3e3])
def test_survives_neighbours_that_disagree_wildly(scale, smoothing, backend):
    logits, target, _ = problem((1, 5, 4, 4, 32, 30), torch.float32, scale)
    value, gradient = value_and_gradient(
        upsample_cross_entropy(logits, target, label_smoothing=smoothing, backend=backend), logits
    )
    double = logits.detach().double().requires_grad_()
    expected = value_and_gradient(torch_loss(double, target, label_smoothing=smoothing), double)
    torch.testing.assert_close(value.double(), expected[0], rtol=1e-5, atol=0)
    torch.testing.assert_close(gradient.double(), expected[1], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("backend", FUSED)
def test_gradient_is_no_further_from_float64_than_torch_is(backend):
    logits, target, _ = problem((1, 150, 16, 16, 256, 256), torch.float32, 1.0)
    double = logits.detach().double().requires_grad_()
    exact = value_and_gradient(torch_loss(double, target), double)[1]
    ours, theirs = (
        (value_and_gradient(loss(logits, target), logits)[1] - exact).abs().max() / exact.abs().max()
        for loss in (partial(upsample_cross_entropy, backend=backend), torch_loss)
    )
    assert ours < 1e-6
    assert ours <= theirs


@some.composite
def any_problem(draw):
    """Logits of any shape and type, labels of any type, and options that go together."""
    batch, num_classes = draw(some.integers(1, 2)), draw(some.sampled_from([1, 2, 3, 5, 20]))
    height, width = draw(some.integers(1, 6)), draw(some.integers(1, 20))
    stride = draw(some.sampled_from([0.4, 1, 2, 3.3, 4, 8, 16, 23]))
    size = [max(1, round(stride * cells) + draw(some.integers(0, 2))) for cells in (height, width)]
    size = [min(size[0], 30), min(size[1], 200)]
    generator = torch.Generator().manual_seed(draw(some.integers(0, 2**32)))
    scale = draw(some.sampled_from([0.1, 3.0, 30.0, 500.0]))
    dtype = draw(some.sampled_from([torch.float32, torch.bfloat16, torch.float16]))
    logits = (scale * torch.randn(batch, num_classes, height, width, generator=generator)).to(dtype)
    label_type = draw(some.sampled_from([torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64]))
    ignore_index = draw(some.sampled_from([0, 100, -7 if label_type.is_signed else 255]))
    target = torch.randint(num_classes, (batch, *size), generator=generator, dtype=label_type)
    if draw(some.booleans()):  # as in images: the same label for many pixels
        target = target[:, :1, :1].expand(-1, *size).clone()
    target[torch.rand(target.shape, generator=generator) < 0.2] = ignore_index
    options = {"ignore_index": ignore_index, "mean_over": draw(some.sampled_from(["valid", "all"]))}
    options |= draw(some.sampled_from([{}, {"label_smoothing": 0.2}, {"clip": 2.5}]))
    if draw(some.booleans()):
        options["weight"] = torch.rand(num_classes, generator=generator)
    if draw(some.booleans()):
        options["pixel_weight"] = 3 * torch.rand(target.shape, generator=generator)
    if draw(some.booleans()):
        options["padded"] = (size[0] + draw(some.integers(0, 9)), size[1] + draw(some.integers(0, 9)))
    return logits.requires_grad_(), target, options


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(any_problem(), some.sampled_from(HERE), some.sampled_from([1, 1 << 22]))
def test_any_problem_is_solved_as_in_float64(made, backend, part_work):
    logits, target, options = made
    double = logits.detach().double().requires_grad_()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native_upsample_cross_entropy, "_PART_WORK", part_work)
        loss = upsample_cross_entropy(logits, target, backend=backend, **options)
    expected = upsample_cross_entropy(double, target, backend="plain", **options)
    largest = logits.detach().abs().max().item()
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-6 * (1 + largest))
    if "clip" in options and backend != "plain":  # a pixel at the ceiling may fall on either side of it
        return
    gradient, exact = (torch.autograd.grad(of, x)[0] for of, x in ((loss, logits), (expected, double)))
    scale = exact.abs().max().item()
    half = 0 if logits.dtype == torch.float32 else torch.finfo(logits.dtype).eps
    torch.testing.assert_close(gradient.double(), exact, rtol=half, atol=(1e-5 + 1e-6 * largest) * scale + 1e-7)


@settings(max_examples=8, deadline=None, derandomize=True, database=None)
@given(any_problem())
def test_plain_is_the_loss_pixel_by_pixel_with_any_options(made):
    logits, target, options = made
    logits = logits.detach().double()[:, :, :3, :3]
    target, size = target[:, :9, :9], target[:, :9, :9].shape[1:]
    options["pixel_weight"] = options.get("pixel_weight", torch.ones(target.shape))[:, :9, :9]
    options["padded"] = tuple(side + 3 for side in size)
    ours = upsample_cross_entropy(logits, target, backend="plain", **options)
    arrays = {
        name: value.double().numpy() if torch.is_tensor(value) else value for name, value in options.items()
    }
    slow = slow_upsample_cross_entropy(logits.numpy(), target.numpy(), **arrays)
    assert ours.item() == pytest.approx(slow, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradient_ends_at_the_ceiling(backend):
    logits, target, weight = problem((2, 6, 5, 7, 61, 90), torch.float32)
    loss = upsample_cross_entropy(logits, target, weight=weight, clip=2.0, backend=backend)
    full = F.interpolate(logits.double(), target.shape[1:], mode="bilinear")
    cost = F.cross_entropy(full, target.long(), ignore_index=255, reduction="none")
    factor = weight.double()[target.long().where(target != 255, 0)].where(target != 255, 0.0)
    assert 0.1 < (cost > 2).float().mean() < 0.9
    expected = (factor * cost.where(cost < 2, 2.0)).sum() / factor.sum()
    torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=0)
    gradients = (torch.autograd.grad(of, logits)[0] for of in (loss, expected))
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_class_costs_nothing_and_pulls_nowhere(backend):
    logits, target, _ = problem((2, 1, 3, 5, 40, 51), torch.float32)
    value, gradient = value_and_gradient(upsample_cross_entropy(logits, target, backend=backend), logits)
    assert value.item() == 0
    assert torch.equal(gradient, torch.zeros_like(gradient))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_shows_in_the_loss_and_ends_no_process(bad, backend):
    logits, target, _ = problem((1, 4, 3, 9, 24, 72), torch.float32)
    with torch.no_grad():
        logits[0, 2, 1, 4] = bad
    value, gradient = value_and_gradient(upsample_cross_entropy(logits, target, backend=backend), logits)
    assert value.isnan()
    assert gradient.isnan().any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_classes_masked_out_by_a_huge_negative_number_take_no_part(backend):
    logits, target, _ = problem((1, 5, 3, 9, 24, 72), torch.float32)
    target[target == 3] = 0
    others = [0, 1, 2, 4]
    kept = logits[:, others].detach().requires_grad_()
    fewer = torch.where(target == 4, 3, target)
    expected, gradient = value_and_gradient(torch_loss(kept, fewer), kept)
    with torch.no_grad():
        logits[:, 3] = -1e9
    value, ours = value_and_gradient(upsample_cross_entropy(logits, target, backend=backend), logits)
    torch.testing.assert_close((value, ours[:, others]), (expected, gradient), rtol=1e-4, atol=1e-6)
    assert torch.equal(ours[:, 3], torch.zeros_like(ours[:, 3]))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_sure_model_costs_no_less_than_nothing(backend):
    target = torch.randint(5, (1, 64, 64), dtype=torch.uint8)
    target = target[:, ::16, ::16].repeat_interleave(16, 1).repeat_interleave(16, 2)
    logits = 200 * F.one_hot(target[:, ::16, ::16].long(), 5).movedim(3, 1).float()
    assert upsample_cross_entropy(logits, target, backend=backend) >= 0


@pytest.mark.parametrize("backend", FUSED)
@pytest.mark.parametrize("reentrant", [False, True])
def test_works_under_checkpointing_and_accumulation(reentrant, backend):
    logits, target, _ = problem((2, 3, 4, 4, 32, 32), torch.float32)
    scale = torch.tensor(2.0, requires_grad=True)
    for half in range(2):
        part = torch.utils.checkpoint.checkpoint(
            lambda x, half=half: upsample_cross_entropy(x * scale, target[half : half + 1], backend=backend),
            logits[half : half + 1],
            use_reentrant=reentrant,
        )
        part.backward()
    twice = (2 * logits.detach()).requires_grad_()
    sum(torch_loss(twice[i : i + 1], target[i : i + 1]) for i in range(2)).backward()
    torch.testing.assert_close(logits.grad, 2 * twice.grad)
    torch.testing.assert_close(scale.grad, (twice.grad * logits.detach()).sum())


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path):
    code = (
        "import sys, torch; from torch import distributed as dist, nn\n"
        "from segbench.kernels.upsample_cross_entropy import upsample_cross_entropy\n"
        "rank, store = int(sys.argv[1]), sys.argv[2]\n"
        "dist.init_process_group('gloo', init_method=f'file://{store}', rank=rank, world_size=2)\n"
        "torch.manual_seed(0); net = nn.parallel.DistributedDataParallel(nn.Conv2d(3, 5, 1))\n"
        "image, label = torch.randn(2, 3, 4, 4), torch.randint(5, (2, 64, 64), dtype=torch.uint8)\n"
        "part = slice(rank, rank + 1)\n"
        "upsample_cross_entropy(net(image[part]), label[part]).backward()\n"
        "alone = nn.Conv2d(3, 5, 1); alone.load_state_dict(net.module.state_dict())\n"
        "upsample_cross_entropy(alone(image), label, backend='plain').backward()\n"
        "torch.testing.assert_close(net.module.weight.grad, alone.weight.grad)\n"
        "dist.destroy_process_group()\n"
    )
    command = [sys.executable, "-c", code]
    ranks = [
        subprocess.Popen([*command, str(rank), str(tmp_path / "store")], stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    for rank in ranks:
        _, errors = rank.communicate(timeout=120)
        assert rank.returncode == 0, errors


@pytest.mark.parametrize("backend", ["plain", "chunked"])
@pytest.mark.parametrize("options", [{"label_smoothing": 0.1}, {"clip": 3.0, "padded": (9, 8)}], ids=str)
def test_gradcheck(options, backend):
    logits, target, weight = problem((1, 3, 2, 3, 7, 8))
    options = options | {"weight": weight, "pixel_weight": torch.rand(target.shape), "backend": backend}
    assert torch.autograd.gradcheck(lambda x: upsample_cross_entropy(x, target, **options), (logits,))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
@pytest.mark.parametrize("ignore_index", [-100, 0, 255])
@pytest.mark.parametrize("backend", BACKENDS)
def test_any_integer_labels_and_any_ignore_index(dtype, ignore_index, backend):
    logits = torch.randn(1, 200, 3, 3)
    target = torch.randint(200, (1, 20, 20))  # 156 is -100 in uint8
    expected = F.cross_entropy(
        F.interpolate(logits, (20, 20), mode="bilinear"), target, ignore_index=ignore_index
    )
    ours = upsample_cross_entropy(logits, target.to(dtype), ignore_index=ignore_index, backend=backend)
    torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("nothing", ["all ignored", "weights of zero"])
def test_zero_with_zero_gradient_where_nothing_counts(nothing, backend):
    logits, target, _ = problem((2, 3, 2, 2, 8, 8), ignored=1.1 if nothing == "all ignored" else 0)
    weight = torch.zeros(3) if nothing == "weights of zero" else None
    logits = suited(logits, backend)
    loss = upsample_cross_entropy(logits, target, weight=weight, backend=backend)
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_incoming_gradient_scales_the_gradient():
    logits, target, _ = problem((1, 3, 2, 2, 8, 8))
    gradient = value_and_gradient(upsample_cross_entropy(logits, target), logits)[1]
    (5 * upsample_cross_entropy(logits, target)).backward()
    torch.testing.assert_close(logits.grad, 5 * gradient)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_accumulated_in_float32(dtype, backend):
    logits, target, _ = problem((2, 19, 8, 8, 128, 128), dtype)
    value, gradient = value_and_gradient(upsample_cross_entropy(logits, target, backend=backend), logits)
    single = logits.detach().float().requires_grad_()
    expected, expected_gradient = value_and_gradient(torch_loss(single, target), single)
    assert value.dtype == torch.float32
    assert gradient.dtype == dtype
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(gradient, expected_gradient.to(dtype))


@pytest.mark.parametrize("backend", FUSED)
def test_gradient_scaler_rescues_tiny_half_precision_gradients(backend):
    logits, target, _ = problem((8, 19, 8, 8, 128, 128), torch.float16)
    single = logits.detach().float().requires_grad_()
    scale = 2.0**16
    (scale * upsample_cross_entropy(logits, target, backend=backend)).backward()
    (scale * torch_loss(single, target)).backward()
    torch.testing.assert_close(logits.grad, single.grad.half())


@pytest.mark.parametrize("backend", BACKENDS)
def test_autocast_changes_nothing(backend):
    for dtype in (torch.float32,) if backend == "native" else (torch.float32, torch.float64):
        logits, target, weight = problem((1, 5, 4, 4, 30, 30), dtype)
        outside = value_and_gradient(
            upsample_cross_entropy(logits, target, weight=weight, backend=backend), logits
        )
        with torch.autocast("cpu", dtype=torch.bfloat16):
            inside = value_and_gradient(
                upsample_cross_entropy(logits, target, weight=weight, backend=backend), logits
            )
        torch.testing.assert_close(inside, outside, rtol=0, atol=0)


def test_low_matmul_precision_changes_nothing():
    logits, target, _ = problem((1, 5, 4, 4, 30, 30), torch.float32)
    exact = value_and_gradient(upsample_cross_entropy(logits, target), logits)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        again = value_and_gradient(upsample_cross_entropy(logits, target), logits)
    finally:
        torch.set_float32_matmul_precision(before)
    torch.testing.assert_close(again, exact, rtol=0, atol=0)


@pytest.mark.parametrize("backend", FUSED)
def test_repeats_are_equal_bit_by_bit_with_any_number_of_threads(backend):
    logits, target, weight = problem((2, 150, 12, 12, 192, 192), torch.float32)
    options = {"weight": weight, "label_smoothing": 0.1, "backend": backend}
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 1, 2, 3):
            torch.set_num_threads(threads)
            results.append(value_and_gradient(upsample_cross_entropy(logits, target, **options), logits))
    finally:
        torch.set_num_threads(before)
    for value, gradient in results[1:]:
        assert torch.equal(value, results[0][0])
        assert torch.equal(gradient, results[0][1])


@pytest.mark.parametrize("backend", BACKENDS)
def test_logits_and_labels_may_lie_in_memory_in_any_order(backend):
    logits, target, _ = problem((2, 5, 4, 6, 32, 40), torch.float32)
    expected = value_and_gradient(torch_loss(logits, target), logits)
    mixed = logits.detach().to(memory_format=torch.channels_last).requires_grad_()
    target, weight = target.mT.contiguous().mT, torch.ones(2, 40, 32).mT
    loss = upsample_cross_entropy(mixed, target, pixel_weight=weight, backend=backend)
    torch.testing.assert_close(value_and_gradient(loss, mixed), expected)


@pytest.mark.parametrize("backend", FUSED)
def test_holds_a_small_part_of_the_upsampled_logits(backend):
    peaks = []
    for batch in (1, 4):
        logits, target, _ = problem((batch, 150, 16, 16, 256, 256), torch.float32)
        full = 4 * 150 * target.numel()
        peak = peak_bytes(
            lambda x=logits, t=target: upsample_cross_entropy(x, t, backend=backend).backward(), logits.device
        )
        plain = peak_bytes(
            lambda x=logits, t=target: upsample_cross_entropy(x, t, backend="plain").backward(), logits.device
        )
        assert plain > full, "the measure itself is broken"
        peaks.append(peak)
    assert peaks[1] < (0.15 if backend == "chunked" else 0.025) * full
    assert peaks[1] < (1.5 if backend == "chunked" else 4.1) * peaks[0]  # no more than the gradient grows


@pytest.mark.parametrize("backend", FUSED)
def test_without_gradients_less_is_held_and_the_value_is_the_same(backend):
    logits, target, _ = problem((2, 150, 16, 16, 64, 64), torch.float32)
    loss = partial(upsample_cross_entropy, logits, target, backend=backend)
    with_gradient = loss()
    with torch.no_grad():
        without = loss()
        peak = peak_bytes(loss, logits.device)
    assert torch.equal(with_gradient.detach(), without)
    assert not without.requires_grad
    assert peak < peak_bytes(loss, logits.device)


@pytest.mark.parametrize("backend", FUSED)
def test_second_derivative_is_refused(backend):
    logits, target, _ = problem((1, 3, 2, 2, 8, 8), torch.float32)
    loss = upsample_cross_entropy(logits, target, backend=backend)
    with pytest.raises(ValueError, match='no second derivative; choose backend="plain"'):
        torch.autograd.grad(loss, logits, create_graph=True)


@pytest.mark.filterwarnings("ignore")  # the compiler's own deprecations
def test_compiles_without_a_graph_break():
    logits, target, _ = problem((1, 3, 2, 2, 8, 8), torch.float32)

    @torch.compile(fullgraph=True, backend="aot_eager")
    def scaled(x):
        return 2 * upsample_cross_entropy(3 * x, target, clip=50.0)

    value, gradient = value_and_gradient(scaled(logits), logits)
    expected = value_and_gradient(2 * torch_loss(3 * logits, target), logits)
    torch.testing.assert_close((value, gradient), expected)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("label", [5, 254])
def test_a_label_that_is_no_class_is_named(label, backend):
    logits, target, _ = problem((1, 5, 2, 2, 9, 9), torch.float32)
    target[0, 4, 7] = label
    with pytest.raises(ValueError, match=f"label {label} is neither one of the 5 classes nor ignore_index"):
        upsample_cross_entropy(logits, target, backend=backend)
    with pytest.raises(ValueError, match="label -3 is neither"):
        upsample_cross_entropy(logits, torch.full((1, 9, 9), -3), backend=backend)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"logits": torch.zeros(3, 4, 4)}, r"logits must be \(B, K, h, w\)"),
        ({"logits": torch.zeros(1, 3, 4, 4, dtype=torch.long)}, "logits must be .* of a float type"),
        ({"logits": torch.zeros(2, 3, 4, 4)}, "logits have 2 images and target 1"),
        ({"target": torch.zeros(1, 1, 8, 8, dtype=torch.uint8)}, r"target must be \(B, H, W\)"),
        ({"target": torch.zeros(1, 8, 8)}, "target must be .* of an integer type"),
        ({"target": torch.zeros(1, 0, 8, dtype=torch.uint8)}, "target must be"),
        ({"weight": torch.ones(4)}, r"weight must be \(3,\)"),
        ({"label_smoothing": 1.5}, "label_smoothing must lie in"),
        ({"backend": "fast"}, "backend is 'fast'; choose"),
        ({"clip": 0.0}, "clip must be positive"),
        ({"clip": 1.0, "label_smoothing": 0.1}, "clip and label_smoothing exclude each other"),
        ({"pixel_weight": torch.ones(1, 8, 7)}, r"pixel_weight must be \(1, 8, 8\)"),
        ({"mean_over": "some"}, "mean_over is 'some'"),
        ({"padded": (8, 7)}, r"padded is \(8, 7\), smaller than the target's \(8, 8\)"),
    ],
)
def test_unsuitable_arguments_are_refused(arguments, message):
    suitable = {"logits": torch.zeros(1, 3, 4, 4), "target": torch.zeros(1, 8, 8, dtype=torch.uint8)}
    with pytest.raises(ValueError, match=message):
        upsample_cross_entropy(**(suitable | arguments))


def test_the_environment_chooses_where_the_caller_does_not(monkeypatch):
    logits, target, _ = problem((1, 3, 2, 2, 8, 8))
    monkeypatch.setattr(chunked, "loss_and_gradient", None)
    monkeypatch.setenv("SEGBENCH_KERNELS", "plain")
    upsample_cross_entropy(logits, target)
    with pytest.raises(TypeError):
        upsample_cross_entropy(logits, target, backend="chunked")
    monkeypatch.setenv("SEGBENCH_KERNELS", "chunked")
    with pytest.raises(TypeError):
        upsample_cross_entropy(logits, target)
    monkeypatch.setenv("SEGBENCH_KERNELS", "quick")
    with pytest.raises(ValueError, match="SEGBENCH_KERNELS is 'quick'"):
        upsample_cross_entropy(logits, target)


@compiled
def test_auto_is_native_where_that_can_be_had_and_chunked_elsewhere(monkeypatch):
    monkeypatch.delenv("SEGBENCH_KERNELS", raising=False)
    logits, target, _ = problem((1, 3, 2, 2, 8, 8), torch.float32)
    monkeypatch.setattr(native_upsample_cross_entropy, "loss_and_gradient", None)
    with pytest.raises(TypeError):
        upsample_cross_entropy(logits, target)
    upsample_cross_entropy(logits.double(), target)
    monkeypatch.setattr(native, "available", lambda: False)
    upsample_cross_entropy(logits, target)


def test_what_cannot_be_had_here_is_refused(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    logits, target, _ = problem((1, 3, 2, 2, 8, 8))
    with pytest.raises(ValueError, match=r"native loss takes up to float32 on the CPU, not torch\.float64"):
        upsample_cross_entropy(logits, target, backend="native")
    with pytest.raises(ValueError, match="triton loss needs"):
        upsample_cross_entropy(logits, target, backend="triton")

    def no_library():
        raise ValueError("native kernels need a C compiler")

    monkeypatch.setattr(native, "library", no_library)
    with pytest.raises(ValueError, match="need a C compiler"):
        upsample_cross_entropy(logits.float(), target, backend="native")


def test_slow_reference_agrees_with_torch():
    logits, target, weight = problem((1, 3, 3, 4, 9, 7))
    slow = slow_upsample_cross_entropy(logits.detach().numpy(), target.numpy(), 255, weight.numpy(), 0.2)
    assert np.isclose(slow, torch_loss(logits, target, weight=weight, label_smoothing=0.2).item(), atol=1e-12)


@pytest.fixture
def half_by_default():
    """As inside a step under `precision: bf16-true`."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    yield
    torch.set_default_dtype(before)


@pytest.mark.parametrize("backend", FUSED)
def test_the_default_type_is_no_matter(backend, half_by_default):
    logits, target, _ = problem((2, 5, 4, 4, 64, 64), torch.float32)
    expected = value_and_gradient(torch_loss(logits, target), logits)
    loss = value_and_gradient(upsample_cross_entropy(logits, target, backend=backend), logits)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("backend", FUSED)
def test_masked_classes_cost_nothing(backend):
    logits, target, _ = problem((2, 5, 4, 4, 64, 64), torch.float32)
    target = target.where(target != 3, 2)
    masked = torch.cat((logits[:, :3], torch.full_like(logits[:, :1], -torch.inf), logits[:, 4:]), 1)
    left = torch.cat((logits[:, :3], logits[:, 4:]), 1)
    expected = torch_loss(left, target.where(target != 4, 3))
    masked = masked.detach().requires_grad_()
    loss, grad = value_and_gradient(upsample_cross_entropy(masked, target, backend=backend), masked)
    torch.testing.assert_close(loss, expected.detach(), rtol=1e-5, atol=1e-7)
    assert grad.isfinite().all()
    assert (grad[:, 3] == 0).all()


@compiled
def test_an_empty_variable_is_none(monkeypatch):
    monkeypatch.setenv("SEGBENCH_KERNELS", "")
    logits, target, _ = problem((1, 3, 2, 2, 8, 8), torch.float32)
    upsample_cross_entropy(logits, target)
