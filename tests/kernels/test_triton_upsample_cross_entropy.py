import math
import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from reference.slow_summed_cross_entropy import slow_summed_cross_entropy

pytest.importorskip("triton")

from segbench.kernels.upsample_cross_entropy import triton_kernel as kernel
from segbench.kernels.upsample_cross_entropy.triton_kernel import loss_and_gradient

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")  # interpreted on the CPU: tiny shapes
DEFAULTS = {
    "weight": None,
    "pixel_weight": None,
    "ignore_index": 255,
    "smoothing": 0.0,
    "clip": None,
    "needs_grad": True,
    "deterministic": True,
}


def problem(batch, num_classes, height, width, out_height, out_width):
    generator = torch.Generator().manual_seed(num_classes + out_width)
    logits = 2 * torch.randn(batch, num_classes, height, width, generator=generator)
    target = torch.randint(num_classes, (batch, out_height, out_width), generator=generator, dtype=torch.uint8)
    target[torch.rand(target.shape, generator=generator) < 0.2] = 255
    weight = torch.rand(num_classes, generator=generator) + 0.1
    pixel_weight = torch.rand(target.shape, generator=generator)
    return logits.to(DEVICE), target.to(DEVICE), weight.to(DEVICE), pixel_weight.to(DEVICE)


def ours(logits, target, padded=None, **options):
    result = loss_and_gradient(logits, target, **(DEFAULTS | options), padded=padded or tuple(target.shape[1:]))
    return tuple(part.cpu() for part in result)


def expected(logits, target, padded=None, **options):
    options = DEFAULTS | options
    options = {key: value.cpu() if torch.is_tensor(value) else value for key, value in options.items()}
    del options["needs_grad"], options["deterministic"]
    logits = logits.detach().cpu().double().requires_grad_()
    padded = padded or tuple(target.shape[1:])
    loss, total = slow_summed_cross_entropy(logits, target.cpu(), **options, padded=padded)
    return loss.detach(), total, torch.autograd.grad(loss, logits)[0]


def check(result, reference, tolerance=1e-5):
    loss, total, gradient = result
    assert loss.dtype == total.dtype == gradient.dtype == torch.float32
    torch.testing.assert_close(loss.double(), reference[0], rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(total.double(), reference[1], rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient.double(), reference[2], rtol=tolerance, atol=tolerance)
    assert gradient.is_contiguous()


@pytest.mark.parametrize("deterministic", [True, False], ids=["ordered", "atomic"])
@pytest.mark.parametrize(
    ("shape", "padded"),
    [
        ((1, 5, 2, 2, 7, 9), None),  # odd sizes; five classes in two blocks
        ((2, 3, 1, 2, 3, 4), (4, 5)),  # padded, two images
        ((1, 4, 3, 4, 2, 3), None),  # downwards
        ((1, 6, 2, 2, 2, 2), None),  # ratio 1
        ((1, 2, 2, 1, 2, 3), (9, 4)),  # cropped before the last cells are reached
    ],
    ids=str,
)
def test_values_and_gradients(shape, padded, deterministic):
    logits, target, weight, pixel_weight = problem(*shape)
    options = {"weight": weight, "pixel_weight": pixel_weight, "smoothing": 0.3, "padded": padded}
    check(ours(logits, target, **options, deterministic=deterministic), expected(logits, target, **options))


@pytest.mark.parametrize(
    "names", [(), ("weight",), ("pixel_weight",), ("smoothing",), ("clip",), ("weight", "pixel_weight", "clip")]
)
def test_each_option_alone(names):
    logits, target, weight, pixel_weight = problem(1, 3, 1, 2, 4, 5)
    every = {"weight": weight, "pixel_weight": pixel_weight, "smoothing": 1.0, "clip": 1.5}
    options = {name: every[name] for name in names}
    reference = expected(logits, target, **options)
    if "clip" in names:
        assert reference[0] < expected(logits, target, **(options | {"clip": None}))[0], "nothing was clipped"
    check(ours(logits, target, **options), reference)


def test_many_classes_in_long_runs_of_one_label(monkeypatch):
    monkeypatch.setattr(kernel, "MOST_PIECES", 7)
    logits, target, weight, _ = problem(1, 150, 1, 2, 5, 6)
    assert kernel._tile(150, 3) == (1, 32, (4, 1), 1)
    target[:] = 255
    target[:, :, 1:4] = torch.tensor([149, 131, 0], dtype=torch.uint8, device=DEVICE)
    target[:, 3:, 2] = 17
    check(ours(logits, target, weight=weight), expected(logits, target, weight=weight))


def test_cells_that_disagree_wildly():
    logits, target, _, _ = problem(1, 3, 2, 1, 6, 2)
    logits[0, :, :, 0] += torch.tensor(
        [[3e3, 0], [0, 2e3], [0, 0]], device=DEVICE
    )  # between them all underflow
    check(ours(logits, target), expected(logits, target), 1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_computed_with_in_float32(dtype):
    logits, target, _, _ = problem(1, 3, 1, 2, 3, 4)
    check(ours(logits.to(dtype), target), expected(logits.to(dtype), target))


def test_any_layout_in_memory_and_any_integer_labels():
    logits, target, _, _ = problem(2, 3, 2, 1, 3, 2)
    reference = expected(logits, target)
    labels = torch.where(target == 255, -100, target.long()).mT.contiguous().mT
    check(ours(logits.to(memory_format=torch.channels_last), labels, ignore_index=-100), reference)
    check(ours(logits.mT.contiguous().mT, labels.short(), ignore_index=-100), reference)


def test_repeats_are_equal_bit_by_bit_and_do_not_depend_on_the_groups(monkeypatch):
    logits, target, _, _ = problem(3, 3, 1, 2, 3, 4)
    first = ours(logits, target)
    monkeypatch.setattr(kernel, "TABLE_BYTES", 1)  # one image at a time
    for again in (ours(logits, target), ours(logits, target)):
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_without_a_gradient_the_loss_is_the_same():
    logits, target, _, _ = problem(1, 3, 1, 2, 3, 4)
    loss, total, gradient = ours(logits, target, needs_grad=False)
    assert gradient.numel() == 0
    for part, other in zip((loss, total), ours(logits, target), strict=False):
        assert torch.equal(part, other)


@pytest.mark.parametrize("what", ["all ignored", "one class"])
def test_exactly_zero(what):
    logits, target, _, _ = problem(1, 3 if what == "all ignored" else 1, 2, 1, 4, 2)
    if what == "all ignored":
        target[:] = 255
    loss, total, gradient = ours(logits, target)
    assert loss == 0
    assert (total == 0) == (what == "all ignored")
    assert torch.equal(gradient, torch.zeros_like(gradient))


@pytest.mark.parametrize("label", [3, 2**32, -1])
def test_a_label_that_is_no_class_makes_everything_nan(label):
    logits, target, _, _ = problem(1, 3, 1, 1, 2, 2)
    target = target.long()
    target[0, 1, 0] = label
    loss, total, gradient = ours(logits, target)
    assert loss.isnan()
    assert total.isnan()
    assert gradient.isnan().all()


def test_masked_classes_stay_masked():
    logits, target, *_ = problem(1, 4, 2, 2, 4, 4)
    logits[:, 3] = -math.inf
    target.clamp_(max=2)
    three = ours(logits[:, :3].contiguous(), target)
    four = ours(logits, target)
    torch.testing.assert_close(four[0], three[0])
    torch.testing.assert_close(four[2][:, :3], three[2])
    assert (four[2][:, 3] == 0).all()


def test_float64_is_refused():
    logits, target, _, _ = problem(1, 3, 1, 1, 2, 2)
    with pytest.raises(ValueError, match=r'logits are float64 .*; choose "chunked"'):
        ours(logits.double(), target)


def test_reference_agrees_with_torch():
    logits, target, weight, _ = problem(2, 4, 2, 3, 7, 8)
    loss, total, _ = expected(logits, target, weight=weight, smoothing=0.2)
    full = F.interpolate(logits.cpu().double(), (7, 8), mode="bilinear")
    mean = F.cross_entropy(
        full, target.cpu().long(), weight.cpu().double(), ignore_index=255, label_smoothing=0.2
    )
    torch.testing.assert_close(loss / total, mean)


COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from segbench.kernels.upsample_cross_entropy import triton_kernel as kernel

block_x, block_k, sizes, num_warps = kernel._tile(19, 16)
run = dict(NUM_CLASSES=19, IGNORE_INDEX=255, NEEDS_GRAD=True, SIZES=sizes, BLOCK_K=block_k, BLOCK_X=block_x)
fold = dict(NUM_CLASSES=19, BLOCK_CELLS=kernel.FOLD_CELLS, BLOCK_K=kernel.FOLD_CLASSES)
floats = ("smoothing", "clip")
integers = ("target_ptr", "rows_ptr", "columns_ptr", "ends_ptr", "start_ptr")
for function, constants in (
    (kernel._run_kernel, run | dict(SMOOTH=True, CLIP=False, ORDERED=True)),
    (kernel._run_kernel, run | dict(SMOOTH=False, CLIP=True, ORDERED=False, weight_ptr=None)),
    (kernel._fold_kernel, fold),
):
    signature = {
        name: "constexpr" if name in constants
        else "*i32" if name.endswith(integers)
        else "*fp32" if name.endswith("_ptr")
        else "fp32" if name in floats
        else "i32"
        for name in function.arg_names
    }
    source = ASTSource(function, signature, constexprs=constants)
    options = dict(num_warps=num_warps, enable_fp_fusion=True)
    assert triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options).asm["cubin"]
"""


@pytest.mark.slow
def test_compiles_for_a_gpu_that_need_not_be_there(tmp_path):
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    subprocess.run(
        [sys.executable, "-c", COMPILE], env=environment | {"TRITON_CACHE_DIR": str(tmp_path)}, check=True
    )


def test_the_default_type_is_no_matter():
    logits, target, *_ = problem(1, 5, 2, 2, 16, 16)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)  # as inside a step under `precision: bf16-true`
    try:
        result = ours(logits, target)
    finally:
        torch.set_default_dtype(before)
    check(result, expected(logits, target))


@pytest.mark.filterwarnings("ignore:All-NaN slice")  # of the interpreter
def test_nan_is_not_clipped_away():
    logits, target, *_ = problem(1, 5, 2, 2, 16, 16)
    logits[0, 0] = torch.nan
    assert ours(logits, target, clip=1.5)[0].isnan()
