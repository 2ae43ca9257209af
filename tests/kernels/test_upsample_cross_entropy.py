import numpy as np
import pytest
import torch
import torch.nn.functional as F
from reference.slow_upsample_cross_entropy import slow_upsample_cross_entropy

from segbench.benchmarks.timing import peak_bytes
from segbench.kernels import upsample_cross_entropy as kernel
from segbench.kernels.upsample_cross_entropy import upsample_cross_entropy

BACKENDS = ["plain", "chunked"]
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


def value_and_gradient(loss, logits):
    return loss.detach(), torch.autograd.grad(loss, logits)[0]


@pytest.fixture(params=[None, 2000], ids=["one band", "many bands"])
def band_bytes(request, monkeypatch):
    if request.param:
        monkeypatch.setattr(kernel, "BAND_BYTES_CPU", request.param)


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
    ours = upsample_cross_entropy(logits, target, weight=weight, label_smoothing=smoothing, backend=backend)
    assert ours.item() == pytest.approx(slow, abs=1e-12)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.usefixtures("band_bytes")
def test_agrees_with_torch_in_value_and_gradient(shape, weighted, smoothing, dtype, tolerance):
    logits, target, weight = problem(shape, dtype)
    options = {"weight": weight if weighted else None, "label_smoothing": smoothing}
    expected, expected_gradient = value_and_gradient(torch_loss(logits, target, **options), logits)
    for backend in BACKENDS:
        value, gradient = value_and_gradient(
            upsample_cross_entropy(logits, target, backend=backend, **options), logits
        )
        torch.testing.assert_close(value, expected, rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(gradient, expected_gradient, rtol=tolerance, atol=tolerance * 0.1)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("scale", [100.0, 3e3])
def test_survives_neighbours_that_disagree_wildly(scale, smoothing):
    logits, target, _ = problem((1, 5, 4, 4, 32, 30), torch.float32, scale)
    value, gradient = value_and_gradient(
        upsample_cross_entropy(logits, target, label_smoothing=smoothing), logits
    )
    double = logits.detach().double().requires_grad_()
    expected = value_and_gradient(torch_loss(double, target, label_smoothing=smoothing), double)
    torch.testing.assert_close(value.double(), expected[0], rtol=1e-5, atol=0)
    torch.testing.assert_close(gradient.double(), expected[1], rtol=1e-3, atol=1e-6)


def test_gradient_is_no_further_from_float64_than_torch_is():
    logits, target, _ = problem((1, 150, 16, 16, 256, 256), torch.float32, 1.0)
    double = logits.detach().double().requires_grad_()
    exact = value_and_gradient(torch_loss(double, target), double)[1]
    ours, theirs = (
        (value_and_gradient(loss(logits, target), logits)[1] - exact).abs().max() / exact.abs().max()
        for loss in (upsample_cross_entropy, torch_loss)
    )
    assert ours < 1e-6
    assert ours <= theirs


def test_gradcheck():
    logits, target, weight = problem((1, 3, 2, 3, 7, 8))
    assert torch.autograd.gradcheck(
        lambda x: upsample_cross_entropy(x, target, weight=weight, label_smoothing=0.1), (logits,)
    )


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


def test_gradient_scaler_rescues_tiny_half_precision_gradients():
    logits, target, _ = problem((8, 19, 8, 8, 128, 128), torch.float16)
    single = logits.detach().float().requires_grad_()
    scale = 2.0**16
    (scale * upsample_cross_entropy(logits, target)).backward()
    (scale * torch_loss(single, target)).backward()
    torch.testing.assert_close(logits.grad, single.grad.half())


@pytest.mark.parametrize("backend", BACKENDS)
def test_autocast_changes_nothing(backend):
    for dtype in (torch.float32, torch.float64):
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


def test_repeats_are_equal_bit_by_bit():
    logits, target, _ = problem((2, 19, 12, 12, 192, 192), torch.float32)
    first, second = (value_and_gradient(upsample_cross_entropy(logits, target), logits) for _ in range(2))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])


def test_logits_and_labels_may_lie_in_memory_in_any_order():
    logits, target, _ = problem((2, 5, 4, 6, 32, 40))
    expected = value_and_gradient(torch_loss(logits, target), logits)
    mixed = logits.detach().to(memory_format=torch.channels_last).requires_grad_()
    ours = value_and_gradient(upsample_cross_entropy(mixed, target.mT.contiguous().mT), mixed)
    torch.testing.assert_close(ours, expected)


def test_holds_a_small_part_of_the_upsampled_logits():
    peaks = []
    for batch in (1, 4):
        logits, target, _ = problem((batch, 150, 16, 16, 256, 256), torch.float32)
        full = 4 * 150 * target.numel()
        peak = peak_bytes(lambda x=logits, t=target: upsample_cross_entropy(x, t).backward(), logits.device)
        plain = peak_bytes(
            lambda x=logits, t=target: upsample_cross_entropy(x, t, backend="plain").backward(), logits.device
        )
        assert plain > full, "the measure itself is broken"
        peaks.append(peak)
    assert peaks[1] < 0.15 * full
    assert peaks[1] < 1.5 * peaks[0]


def test_without_gradients_less_is_held_and_the_value_is_the_same():
    logits, target, _ = problem((2, 150, 16, 16, 64, 64), torch.float32)
    with_gradient = upsample_cross_entropy(logits, target)
    with torch.no_grad():
        without = upsample_cross_entropy(logits, target)
        peak = peak_bytes(lambda: upsample_cross_entropy(logits, target), logits.device)
    assert torch.equal(with_gradient.detach(), without)
    assert not without.requires_grad
    assert peak < peak_bytes(lambda: upsample_cross_entropy(logits, target), logits.device)


def test_second_derivative_is_refused():
    logits, target, _ = problem((1, 3, 2, 2, 8, 8))
    with pytest.raises(ValueError, match='no second derivative; choose backend="plain"'):
        torch.autograd.grad(upsample_cross_entropy(logits, target), logits, create_graph=True)


@pytest.mark.filterwarnings("ignore")  # the compiler's own deprecations
def test_compiles_without_a_graph_break():
    logits, target, _ = problem((1, 3, 2, 2, 8, 8), torch.float32)

    @torch.compile(fullgraph=True, backend="aot_eager")
    def scaled(x):
        return 2 * upsample_cross_entropy(3 * x, target)

    value, gradient = value_and_gradient(scaled(logits), logits)
    expected = value_and_gradient(2 * torch_loss(3 * logits, target), logits)
    torch.testing.assert_close((value, gradient), expected)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("label", [5, 254])
def test_a_label_that_is_no_class_is_named(label, backend):
    logits, target, _ = problem((1, 5, 2, 2, 9, 9))
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
    ],
)
def test_unsuitable_arguments_are_refused(arguments, message):
    suitable = {"logits": torch.zeros(1, 3, 4, 4), "target": torch.zeros(1, 8, 8, dtype=torch.uint8)}
    with pytest.raises(ValueError, match=message):
        upsample_cross_entropy(**(suitable | arguments))


def test_the_environment_chooses_where_the_caller_does_not(monkeypatch):
    logits, target, _ = problem((1, 3, 2, 2, 8, 8))
    monkeypatch.setattr(kernel, "_chunked", None)
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


def test_slow_reference_agrees_with_torch():
    logits, target, weight = problem((1, 3, 3, 4, 9, 7))
    slow = slow_upsample_cross_entropy(logits.detach().numpy(), target.numpy(), 255, weight.numpy(), 0.2)
    assert np.isclose(slow, torch_loss(logits, target, weight=weight, label_smoothing=0.2).item(), atol=1e-12)
