"""The task's wiring, and the parameter counts that the thesis and Segmenter publish."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from reference import slow_windows

from segbench.decoders.linear import LinearDecoder
from segbench.encoders.timm_vit import TimmViT
from segbench.inference.pixel_probabilities import label_edges
from segbench.losses.cross_entropy import CrossEntropy
from segbench.necks.mean_shift import MeanShift
from segbench.postprocess.base import PostProcessor
from segbench.postprocess.regions import Regions
from segbench.tasks.semantic import SemanticTask
from segbench.types import Batch


def make(num_classes=4, img_size=(32, 32), necks=None, depths=None, pretrained=False, **options):
    return SemanticTask(
        encoder=partial(TimmViT, depths=depths, pretrained=pretrained),
        decoder=LinearDecoder,
        img_size=img_size,
        num_classes=num_classes,
        class_names=[f"class {index}" for index in range(num_classes)],
        palette=[[index, 0, 0] for index in range(num_classes)],
        necks=necks,
        **options,
    )


def count(task):
    return sum(p.numel() for p in task.parameters())


def test_segmenter_tiny_linear_has_5_712_342_parameters():
    assert count(make(150, (512, 512))) == 5_712_342


@pytest.mark.parametrize(
    ("dim", "parameters"),
    [(64, 5_724_694), (128, 5_737_046), (192, 5_749_398), (256, 5_761_750), (768, 5_860_566)],
)
@pytest.mark.parametrize("iterations", [1, 3])
def test_mean_shifter_has_the_thesis_parameters_whatever_its_iterations(dim, parameters, iterations):
    neck = partial(MeanShift, dim=dim, iterations=iterations)
    assert count(make(150, (512, 512), necks=[neck])) == parameters


def test_logits_are_upsampled_to_the_padded_size_and_cropped():
    task = make(depths=[0]).eval()
    image = torch.randint(0, 256, (2, 3, 40, 53), dtype=torch.uint8)
    with torch.inference_mode():
        prediction, size = task(image)
        assert size == (48, 64)
        expected = F.interpolate(prediction.logits, size, mode="bilinear")[..., :40, :53]
        torch.testing.assert_close(task.logits(image), expected)
        assert torch.equal(task.segment(image).long(), expected.argmax(1))


def test_window_and_stride_of_a_call_win_over_those_of_the_task():
    task = make(depths=[0], window=(32, 32), stride=(16, 16)).eval()
    image = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    plain = make(depths=[0]).eval()
    plain.load_state_dict(task.state_dict())
    with torch.inference_mode():
        assert torch.equal(task.segment(image, window=(64, 64)), plain.segment(image))
        by_hand = plain.segment(image, window=(32, 32), stride=(16, 16))
        assert torch.equal(task.segment(image), by_hand)
        assert not torch.equal(by_hand, plain.segment(image))


def test_training_loss_ignores_what_was_padded():
    task = make(depths=[0])
    task.log = lambda *args, **kwargs: None
    image = torch.randint(0, 256, (2, 3, 40, 53), dtype=torch.uint8)
    label = torch.randint(0, 4, (2, 40, 53), dtype=torch.uint8)
    label[:, :3] = 255
    loss = task.training_step(Batch(image, label, ("a", "b")), 0)["loss"]
    logits = F.interpolate(task(image)[0].logits, (48, 64), mode="bilinear")[..., :40, :53]
    torch.testing.assert_close(loss, F.cross_entropy(logits, label.long(), ignore_index=255))


def test_losses_add_up_with_their_weights():
    task = make(depths=[0], losses=[partial(CrossEntropy, weight=2.0), partial(CrossEntropy, weight=0.5)])
    logged = {}
    task.log = lambda name, value, **kwargs: logged.update({name: value})
    batch = Batch(torch.zeros(1, 3, 32, 32), torch.zeros(1, 32, 32, dtype=torch.long), ("a",))
    loss = task.training_step(batch, 0)["loss"]
    assert logged["train/cross_entropy_1"] == logged["train/cross_entropy_2"]
    torch.testing.assert_close(loss.detach(), 2.5 * logged["train/cross_entropy_1"])


def test_iterations_are_overridden():
    task = make(depths=[0], necks=[partial(MeanShift, iterations=1)] * 2, neck_iterations=3)
    assert [neck.iterations for neck in task.necks] == [3, 3]
    with pytest.raises(ValueError, match="needs a neck that iterates"):
        make(depths=[0], neck_iterations=3)


@torch.no_grad()
def test_compiling_keeps_keys_and_results():
    task = make(depths=[0], necks=[MeanShift]).eval()
    image = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8)
    keys, before = list(task.state_dict()), task.logits(image)
    for module in (task.encoder, *task.necks, task.decoder):
        module.compile(backend="aot_eager")
    torch.testing.assert_close(task.logits(image), before)
    assert list(task.state_dict()) == keys


def test_names_and_colours_must_be_one_for_each_class():
    with pytest.raises(ValueError, match="4 classes, but 1 class names and 1 colours"):
        SemanticTask(TimmViT, LinearDecoder, (32, 32), 4, ["one"], [[0, 0, 0]])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": (-1, -1)}, "window must be one or two positive numbers"),
        ({"window": (32, 32), "stride": (48, 48)}, "stride .* exceeds window"),
        ({"stride": (16, 16)}, "needs a window"),
        ({"resize": (0, 512)}, "resize must be two positive limits"),
        ({"windows_per_batch": 0}, "windows_per_batch must be at least 1"),
    ],
)
def test_windows_that_cannot_be_are_refused_before_the_training(options, message):
    with pytest.raises(ValueError, match=message):
        make(depths=[0], **options)


@pytest.mark.parametrize("color", [[999, 0, 0], [0, -1, 0], [0, 0], [0, 0, 0, 255]])
def test_colours_are_red_green_and_blue(color):
    with pytest.raises(ValueError, match=r"palette: b has the colour .* in 0..255"):
        SemanticTask(TimmViT, LinearDecoder, (32, 32), 2, ["a", "b"], [[0, 0, 0], color])


def test_an_encoder_of_one_size_is_evaluated_in_windows_of_that_size():
    class Fixed(TimmViT):
        fixed_size = True

        def forward(self, image):
            assert image.shape[-2:] == (32, 32)
            return super().forward(image)

    names, palette = ["a", "b"], [[0, 0, 0], [255, 255, 255]]
    task = SemanticTask(partial(Fixed, depths=[0]), LinearDecoder, (32, 32), 2, names, palette).eval()
    for size in [(32, 32), (50, 40), (20, 90)]:
        assert task.segment(torch.zeros(1, 3, *size, dtype=torch.uint8)).shape == (1, *size)


def test_from_scratch_fetches_no_weights():
    with pytest.raises(ValueError, match="file not found: nowhere"):
        make(depths=[0], pretrained="nowhere.pth")
    assert count(make(depths=[0], from_scratch=True, pretrained="nowhere.pth")) == count(make(depths=[0]))


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf")])
def test_a_loss_cannot_have_such_a_weight(weight):
    with pytest.raises(ValueError, match="losses: weight of CrossEntropy is"):
        make(depths=[0], losses=[partial(CrossEntropy, weight=weight)])


def test_a_decoder_that_returns_a_tensor_is_told_what_to_return():
    class Bare(LinearDecoder):
        def forward(self, features):
            return super().forward(features).logits

    names, palette = ["a", "b"], [[0, 0, 0], [255, 255, 255]]
    task = SemanticTask(partial(TimmViT, depths=[0]), Bare, (32, 32), 2, names, palette)
    with pytest.raises(ValueError, match=r"decoder: Bare returns a Tensor; return segbench.types.Prediction"):
        task(torch.zeros(1, 3, 32, 32))


def test_evaluation_takes_the_scales_and_flips_of_the_task():
    task = make(depths=[0], scales=[0.5, 1.0, 1.5], flip=True, window=(32, 32), resize=(80, 40)).eval()
    plain = make(depths=[0], window=(32, 32), resize=(80, 40)).eval()
    plain.load_state_dict(task.state_dict())
    image = torch.randint(0, 256, (1, 3, 64, 80), dtype=torch.uint8)
    expected = slow_windows.averaged_probabilities(
        image, task._window_prediction, [0.5, 1.0, 1.5], True, window=32, stride=32, resize=(80, 40)
    )
    found = task.confidence(image)
    torch.testing.assert_close(found.probabilities[:, 0].double(), expected.amax(1), rtol=0, atol=1e-4)
    assert (task.segment(image) == expected.argmax(1)).float().mean() > 0.999
    assert not torch.equal(task.segment(image), plain.segment(image))
    assert torch.equal(plain.confidence(image).classes[:, 0], plain.segment(image))
    with pytest.raises(ValueError, match="scales must be one or more positive factors, got"):
        make(depths=[0], scales=[0.0])


class Witness(PostProcessor):
    """Labels the left half 3, and keeps what it was given."""

    def __init__(self):
        self.seen = []

    def __call__(self, probabilities, boundary):
        self.seen.append((probabilities, boundary))
        labels = probabilities.argmax(0)
        labels[:, : labels.shape[1] // 2] = 3
        return labels


def test_a_post_processor_has_the_last_word_in_every_evaluation():
    options = {"window": (32, 32), "stride": (16, 16), "flip": True}
    task = make(depths=[0], postprocess=Witness, **options).eval()
    image = torch.randint(0, 256, (2, 3, 64, 80), dtype=torch.uint8)
    label = torch.full((2, 64, 80), 3, dtype=torch.uint8)
    certain = task.confidence(image)
    expected = certain.classes[:, 0].clone()
    expected[..., :40] = 3
    batch = Batch(image, label, ("a", "b"))
    with torch.inference_mode():
        found = [task.segment(image), task.validation_step(batch, 0), task.test_step(batch, 0)]
        found.append(task.predict_step(batch, 0))
    for labels in found:
        assert labels.dtype == torch.uint8
        assert torch.equal(labels, expected)
    assert len(task.postprocess.seen) == 8
    for split in ("val", "test"):
        assert task.counts[split].ledger().total(4)[3, 3] == (expected == 3).sum()
    for index, (probabilities, boundary) in enumerate(task.postprocess.seen[:2]):
        assert probabilities.shape == (4, 64, 80)
        torch.testing.assert_close(torch.from_numpy(probabilities.max(0)), certain.probabilities[index, 0])
        assert torch.equal(torch.from_numpy(boundary), label_edges(certain.classes[index, 0]))
    calls = len(task.postprocess.seen)
    assert torch.equal(task.segment(image, window=(64, 80))[..., :40], expected[..., :40])
    by_call = torch.from_numpy(task.postprocess.seen[calls][0])
    assert not torch.equal(by_call, torch.from_numpy(task.postprocess.seen[0][0]))


def test_a_post_processor_for_other_classes_is_refused_before_training():
    with pytest.raises(ValueError, match="promote must be one number or 4"):
        make(depths=[0], postprocess=partial(Regions, promote=[0.5, 0.5]))


@pytest.mark.parametrize("what", ["head", "neck", "both"])
def test_weights_that_no_loss_reaches_are_in_the_graph_all_the_same(what):
    """`DistributedDataParallel` waits for the gradient of every weight."""

    class Headed(LinearDecoder):
        def __init__(self, info, num_classes):
            super().__init__(info, num_classes)
            self.boundary_head = torch.nn.Conv2d(num_classes, 1, 1)

        def forward(self, features):
            prediction = super().forward(features)
            return prediction._replace(boundary=self.boundary_head(prediction.logits))

    encoder = partial(TimmViT, depths=[0], pretrained=False)
    decoder = LinearDecoder if what == "neck" else Headed
    necks = None if what == "head" else [partial(MeanShift, iterations=0)]
    palette = [[0, 0, 0], [255, 255, 255]]
    task = SemanticTask(encoder, decoder, (32, 32), 2, ["a", "b"], palette, necks=necks)
    task.log = lambda *args, **kwargs: None
    image = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    label = torch.randint(0, 2, (2, 32, 32), dtype=torch.uint8)
    with torch.no_grad():  # has no graph, in which nothing would be reached
        task.training_step(Batch(image, label, ("a", "b")), 0)
    for _ in range(2):  # the second step remembers
        task.zero_grad()
        loss = task.training_step(Batch(image, label, ("a", "b")), 0)["loss"]
        logits = F.interpolate(task(image)[0].logits, (32, 32), mode="bilinear")
        torch.testing.assert_close(loss, F.cross_entropy(logits, label.long()))  # nothing else is in it
        loss.backward()
        assert all(parameter.grad is not None for parameter in task.parameters())
    assert 0 < len(task._unreached) < 5


def test_frozen_weights_get_no_gradient():
    task = make(depths=[0], necks=[partial(MeanShift, iterations=0)])
    task.encoder.requires_grad_(False)
    task.log = lambda *args, **kwargs: None
    image, label = torch.zeros(1, 3, 32, 32), torch.zeros(1, 32, 32, dtype=torch.long)
    task.training_step(Batch(image, label, ("a",)), 0)["loss"].backward()
    assert all(parameter.grad is None for parameter in task.encoder.parameters())
    assert all(parameter.grad is not None for parameter in task.necks.parameters())


def test_the_boundary_head_reaches_the_post_processor():
    class Headed(LinearDecoder):
        def forward(self, features):
            prediction = super().forward(features)
            return prediction._replace(boundary=prediction.logits[:, :1] - 1)

    names, palette = ["a", "b"], [[0, 0, 0], [255, 255, 255]]
    task = SemanticTask(
        partial(TimmViT, depths=[0], pretrained=False),
        Headed,
        (32, 32),
        2,
        names,
        palette,
        postprocess=Witness,
    ).eval()
    image = torch.randint(0, 256, (1, 3, 40, 48), dtype=torch.uint8)
    task.segment(image)
    ((probabilities, boundary),) = task.postprocess.seen
    torch.testing.assert_close(torch.from_numpy(probabilities), task.logits(image)[0].softmax(0))
    torch.testing.assert_close(torch.from_numpy(boundary), (task.logits(image)[0, 0] - 1).sigmoid())


PHOTOGRAPH = """
import torch
from functools import partial
from peak import peak
from segbench.decoders.linear import LinearDecoder
from segbench.encoders.timm_vit import TimmViT
from segbench.tasks.semantic import SemanticTask

names, palette = [str(k) for k in range(150)], [[k, 0, 0] for k in range(150)]
task = SemanticTask(partial(TimmViT, pretrained=False), LinearDecoder, (512, 512), 150, names, palette,
                    window=(512, 512)).eval()
with torch.inference_mode():
    task.segment(torch.zeros(1, 3, 512, 512, dtype=torch.uint8))
    before = peak()
    image = torch.randint(0, 256, (1, 3, 4000, 6000), dtype=torch.uint8)
    labels = task.segment(image)
assert labels.shape == (1, 4000, 6000) and labels.dtype == torch.uint8
print(peak() - before)
"""


@pytest.mark.slow
def test_a_photograph_of_24_megapixels_and_150_classes_takes_less_than_2_gb_beside_the_model():
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", PHOTOGRAPH], capture_output=True, text=True, check=True, env=environment
    )
    assert 1e8 < int(done.stdout.split()[-1]) < 2e9
