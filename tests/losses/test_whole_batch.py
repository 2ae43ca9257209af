"""A loss over the shares of two processes is the loss of the whole batch, and so are its gradients."""

import copy
from pathlib import Path

import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import distributed, multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel

from segbench.layers.sync_batch_norm import synchronize
from segbench.losses.boundary import BoundaryBCE
from segbench.losses.clipped_cross_entropy import ClippedCrossEntropy
from segbench.losses.color import MeanAbsoluteColor
from segbench.losses.cross_entropy import CrossEntropy
from segbench.losses.dice import Dice
from segbench.losses.gradient_sparsity import GradientSparsity
from segbench.losses.iou import SoftIoU
from segbench.types import Prediction

K = 4
LOSSES = {
    "cross-entropy": lambda: CrossEntropy(K, 255, class_weights=[1.0, 2.0, 3.0, 4.0]),
    "cross-entropy over all": lambda: CrossEntropy(K, 255, mean_over="all"),
    "clipped": lambda: ClippedCrossEntropy(K, 255, boundary_weight=3.0, clip=1.5),
    "boundary": lambda: BoundaryBCE(K, 255),
    "colour": lambda: MeanAbsoluteColor(K, 255),
    "sparsity": lambda: GradientSparsity(K, 255),
    "dice": lambda: Dice(K, 255),
    "iou": lambda: SoftIoU(K, 255),
}


def batch():
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(4, 3, 6, 6, generator=generator)
    label = torch.randint(K, (4, 12, 12), generator=generator)
    label[0, 3:] = 255  # one share has fewer labelled pixels than the other
    label[2] = 255
    label[3, :5] = 255
    return image, label


def model():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, K + 4, 3, padding=1)
    )


def train(net, loss, image, label):
    for _ in range(2):
        net.zero_grad()
        out = net(image)
        prediction = Prediction(out[:, :K], out[:, K : K + 1], out[:, K + 1 :].sigmoid())
        value = loss(prediction, label)
        value.backward()
        with torch.no_grad():
            for parameter in net.parameters():
                parameter -= 0.1 * parameter.grad
    return value.detach()


def build(name):
    loss = LOSSES[name]()
    if isinstance(loss, MeanAbsoluteColor):
        loss.palette = torch.linspace(0, 1, 3 * K).view(K, 3)
    return loss


def share(rank, folder):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=2)
    image, label = (tensor[rank::2] for tensor in batch())
    found = {}
    for name in LOSSES:
        net = model()
        synchronize(net, "cpu")
        wrapped = DistributedDataParallel(net)
        value = train(wrapped, build(name), image, label)
        found[name] = (value, net.state_dict())
    if rank == 0:
        torch.save(found, f"{folder}/found.pt")
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shares")
    multiprocessing.spawn(share, (str(folder),), nprocs=2)
    return torch.load(Path(folder) / "found.pt")


@pytest.mark.slow
@pytest.mark.parametrize("name", LOSSES)
def test_two_processes_compute_the_loss_and_take_the_steps_of_one(found, name):
    net = model()
    value = train(net, build(name), *batch())
    shared, state = found[name]
    torch.testing.assert_close(shared, value, rtol=1e-5, atol=1e-6)
    assert state.keys() == net.state_dict().keys()
    for key, own in net.state_dict().items():
        torch.testing.assert_close(state[key], own, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_synchronised_norms_keep_what_timm_put_into_them(device):
    net = nn.Sequential(nn.Conv2d(3, 4, 1), BatchNormAct2d(4))
    image = torch.randn(2, 3, 5, 5)
    plain = copy.deepcopy(net)
    synchronize(net, device)
    assert list(net.state_dict()) == list(plain.state_dict())
    for train in (True, False):  # one process: as it was, and on a CPU also where a GPU is meant
        assert torch.equal(net.train(train)(image), plain.train(train)(image))
    assert torch.equal(net[1].running_var, plain[1].running_var)
    assert (plain(image) == 0).any()  # the activation is at work
