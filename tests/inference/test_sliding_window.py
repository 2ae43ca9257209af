import cv2
import numpy as np
import pytest
import torch
from reference import slow_windows
from torch.nn import functional as F

from segbench.inference import sliding_window
from segbench.inference.sliding_window import (
    WindowPrediction,
    Windows,
    anchors,
    enlarge_size,
    fit_size,
    resize_image,
    segment,
)

K = 7
CPU = [torch.profiler.ProfilerActivity.CPU]


def photograph(height, width, batch=1, dtype=torch.uint8):
    generator = torch.Generator().manual_seed(height * width)
    coarse = torch.rand(batch, 3, 5, 6, generator=generator) * 255
    return F.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 255).to(dtype)


def model(patch=16, dtype=torch.float32, num_classes=K):
    """A convolution over whole patches that pads at the bottom and right, as the ViT encoders do."""
    weight = torch.randn(num_classes, 3, patch, patch, generator=torch.Generator().manual_seed(0)) / patch

    def forward(windows):
        height, width = windows.shape[2:]
        windows = F.pad(windows.float() / 255 - 0.5, (0, -width % patch, 0, -height % patch))
        return WindowPrediction(F.conv2d(windows, weight, stride=patch).to(dtype), tuple(windows.shape[2:]))

    return forward


def check(image, forward, **options):
    expected = slow_windows.merged_logits(image, forward, **options)
    found = sliding_window.logits(image, forward, Windows(**options))
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-5)
    labels = segment(image, forward, Windows(**options))
    assert labels.dtype == torch.uint8
    assert len(labels.unique()) > 2  # otherwise the next line says little
    assert torch.equal(labels.long(), expected.argmax(1))


@pytest.mark.parametrize(
    ("size", "options"),
    [
        ((64, 96), {}),
        ((45, 83), {}),  # padded to 48 × 96
        ((96, 144), {"window": 48}),
        ((97, 131), {"window": 48, "stride": 32}),
        ((97, 131), {"window": 40, "stride": 32}),  # windows padded to 48
        ((97, 131), {"window": 48, "stride": 17}),  # up to nine windows on a pixel
        ((48, 131), {"window": 48, "stride": 32}),
        ((31, 83), {"window": 48, "stride": 32}),  # shorter than a window
        ((83, 31), {"window": 48, "stride": 32}),
        ((29, 23), {"window": 48, "stride": 32}),
        ((97, 131), {"window": 48, "stride": 32, "resize": (160, 80)}),
        ((50, 70), {"window": 48, "stride": 32, "resize": (300, 100)}),
        ((97, 131), {"window": 48, "stride": 32, "resize": (80, 30)}),
        ((97, 131), {"resize": (80, 64)}),
        ((97, 131), {"window": 48, "out_size": (33, 201)}),
        ((97, 131), {"window": 48, "stride": 32, "resize": (160, 80), "out_size": (61, 59)}),
    ],
    ids=str,
)
def test_agrees_with_the_procedure_done_at_full_size(size, options):
    check(photograph(*size), model(), **options)


@pytest.mark.parametrize("windows_per_batch", [1, 4, 100])
def test_batches_of_windows_may_span_images(windows_per_batch):
    seen = []

    def forward(windows):
        seen.append(len(windows))
        return model()(windows)

    images = photograph(70, 90, batch=3)
    options = {"window": 48, "stride": 32}
    expected = slow_windows.merged_logits(images, model(), **options).argmax(1)
    labels = segment(images, forward, Windows(**options, windows_per_batch=windows_per_batch))
    assert torch.equal(labels.long(), expected)
    assert sum(seen) == 3 * 6
    assert max(seen) == min(windows_per_batch, 18)


def test_window_may_be_oblong():
    image = photograph(60, 100)
    whole = segment(image, model(), Windows((64, 112)))  # enlarged to 67 × 112: one window upon the other
    assert whole.shape == (1, 60, 100)
    strips = sliding_window.logits(image, model(), Windows(window=(60, 50), stride=(60, 50)))
    halves = [sliding_window.logits(half.contiguous(), model()) for half in image.split(50, dim=3)]
    torch.testing.assert_close(strips, torch.cat(halves, 3))


@pytest.mark.parametrize("tile_bytes", [1, 1000, 20_000, 10**9])
def test_size_of_the_tiles_does_not_show(tile_bytes):
    image, options = photograph(61, 83), {"window": 48, "stride": 32}
    expected = slow_windows.merged_logits(image, model(), **options)
    found = sliding_window.logits(image, model(), Windows(**options, tile_bytes=tile_bytes))
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-5)
    labels = segment(image, model(), Windows(**options, tile_bytes=tile_bytes))
    assert torch.equal(labels.long(), expected.argmax(1))


def test_bf16_logits_are_added_in_float32():
    image, options = photograph(97, 131), {"window": 48, "stride": 17}
    check(image, model(dtype=torch.bfloat16), **options)
    assert sliding_window.logits(image, model(dtype=torch.bfloat16), Windows(**options)).dtype == torch.float32


def test_float_images_are_taken_as_they_are():
    check(photograph(50, 70, dtype=torch.float32) + 0.3, model(), window=48, stride=32, resize=(90, 60))


def test_works_in_inference_mode_and_under_autocast():
    image, options = photograph(97, 131), {"window": 48, "stride": 32, "resize": (160, 80)}
    expected = segment(image, model(), Windows(**options))
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        low = model()  # its convolution runs in bf16
        found = segment(image, low, Windows(**options))
        assert sliding_window.logits(image, low, Windows(**options)).dtype == torch.float32
    assert (found == expected).float().mean() > 0.95


def test_more_than_256_classes_need_int64():
    labels = segment(photograph(64, 64), model(num_classes=300))
    assert labels.dtype == torch.int64
    assert labels.max() > 255


def test_full_size_logits_are_never_held():
    image, num_classes = photograph(256, 384), 150
    forward = model(num_classes=num_classes)
    full_size = num_classes * 256 * 384 * 4
    options = {"window": 128, "stride": 96, "tile_bytes": 2**18}
    assert peak(lambda: sliding_window.logits(image, forward, Windows(**options))) > full_size
    assert peak(lambda: segment(image, forward, Windows(**options))) < full_size / 5


@pytest.mark.parametrize("native", [True, False])
def test_memory_is_bounded_by_image_cells_and_labels(native, monkeypatch):
    monkeypatch.setenv("SEGBENCH_KERNELS", "native" if native else "chunked")
    forward, pixels = model(num_classes=150), 512 * 768
    cells = 4 * 150 * pixels // 16**2
    options = {"window": 128, "tile_bytes": 2**18}
    found = peak(lambda: segment(photograph_of_zeros(512, 768), forward, Windows(**options)))
    # Twice the cells, the photograph, the labels, and what does not depend on the size of the image.
    assert found < 2 * cells + 3 * pixels + pixels + 2**22
    assert found < 4 * 150 * pixels / 25


def photograph_of_zeros(height, width):
    return torch.zeros(1, 3, height, width, dtype=torch.uint8)


def peak(work):
    """Returns how many bytes lie in memory together at most, beyond those at the start."""
    with torch.profiler.profile(activities=CPU, profile_memory=True, acc_events=True) as record:
        work()
    events = [event for event in record.profiler.kineto_results.events() if event.name() == "[memory]"]
    assert events
    return int(np.cumsum([event.nbytes() for event in sorted(events, key=lambda e: e.start_ns())]).max())


def test_anchors_end_with_the_axis():
    assert anchors(100, 40, 40) == [0, 40, 60]
    assert anchors(80, 40, 40) == [0, 40]
    assert anchors(40, 40, 10) == [0]
    assert anchors(41, 40, 10) == [0, 1]
    assert anchors(1024, 768, 512) == [0, 256]
    assert anchors(2048, 768, 512) == [0, 512, 1024, 1280]


def test_fit_size_keeps_the_aspect_ratio_within_limits():
    assert fit_size((512, 683), (2048, 512)) == (512, 683)
    assert fit_size((1024, 2048), (2048, 1024)) == (1024, 2048)
    assert fit_size((300, 400), (2048, 512)) == (512, 683)
    assert fit_size((400, 300), (512, 2048)) == (683, 512)  # limits in any order
    assert fit_size((100, 1000), (2048, 512)) == (205, 2048)  # the long side decides


def test_enlarge_size_gives_room_for_one_window():
    assert enlarge_size((512, 683), (512, 512)) == (512, 683)
    assert enlarge_size((256, 341), (512, 512)) == (512, 682)
    assert enlarge_size((341, 256), (512, 512)) == (682, 512)
    assert enlarge_size((10, 10), (48, 64)) == (64, 64)


@pytest.mark.parametrize("size", [(45, 200), (31, 40), (97, 131)])
def test_resizing_agrees_with_opencv(size):
    image = photograph(97, 131)
    expected = cv2.resize(image[0].permute(1, 2, 0).numpy(), size[::-1], interpolation=cv2.INTER_LINEAR)
    found = resize_image(image, size)
    assert found.dtype == torch.uint8
    difference = found[0].permute(1, 2, 0).numpy().astype(int) - expected.astype(int)
    assert abs(difference).max() <= 1  # OpenCV computes in fixed point


def fewer(windows):
    prediction = model()(windows)
    return prediction._replace(logits=prediction.logits[:-1])


def unpadded(windows):
    return WindowPrediction(torch.zeros(len(windows), K, 3, 3), (40, 40))


@pytest.mark.parametrize(
    ("image", "forward", "options", "message"),
    [
        (torch.zeros(3, 64, 64), model(), {}, r"\(B, 3, H, W\), got \(3, 64, 64\)"),
        (torch.zeros(1, 4, 64, 64), model(), {}, r"got \(1, 4, 64, 64\)"),
        (torch.zeros(1, 3, 64, 64), model(), {"window": 0}, "window must be .* positive"),
        (torch.zeros(1, 3, 64, 64), model(), {"window": 48, "stride": -1}, "stride must be .* positive"),
        (torch.zeros(1, 3, 64, 64), model(), {"window": 48, "stride": (48, 49)}, "exceeds window"),
        (torch.zeros(1, 3, 64, 64), model(), {"stride": 32}, "needs a window"),
        (torch.zeros(1, 3, 64, 64), model(), {"resize": (0, 512)}, "resize must be two positive limits"),
        (torch.zeros(1, 3, 64, 64), model(), {"out_size": (0, 5)}, "out_size must be positive"),
        (torch.zeros(1, 3, 64, 64), model(), {"windows_per_batch": 0}, "windows_per_batch must be at least 1"),
        (torch.zeros(1, 3, 64, 64), fewer, {"window": 48}, r"got 4 windows; .* \(4, K, h, w\)"),
        (torch.zeros(1, 3, 64, 64), unpadded, {"window": 48}, r"size \(40, 40\), .* below the window"),
    ],
)
def test_says_what_does_not_fit(image, forward, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        segment(image, forward, Windows(**options))
    assert "\n" not in str(caught.value)


def test_an_image_too_thin_for_the_window_is_refused_before_memory_is_filled():
    with pytest.raises(ValueError, match="give a smaller window"):
        sliding_window.segment(torch.zeros(1, 3, 8, 20000, dtype=torch.uint8), None, Windows(512))
