"""The fused implementation is chosen by itself, changes nothing but the speed, and reads old checkpoints."""

import copy

import pytest
import torch
from torch import nn

from segbench.optim.fused import prefer_fused

MAKERS = {
    "Adam": lambda params, **choice: torch.optim.Adam(params, lr=0.01, **choice),
    "AdamW": lambda params, **choice: torch.optim.AdamW(params, lr=0.01, **choice),
}


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8 * 36, 5))


def train(module, optimizer, steps):
    torch.manual_seed(1)
    for _ in range(steps):
        optimizer.zero_grad()
        module(torch.randn(4, 3, 8, 8)).square().sum().backward()
        optimizer.step()
    return torch.cat([p.detach().flatten() for p in module.parameters()])


@pytest.mark.parametrize("name", MAKERS)
def test_the_weights_are_those_of_the_plain_loop(name):
    plain, fused = model(), model()
    optimizer = prefer_fused(MAKERS[name](fused.parameters()))
    assert all(group["fused"] is True for group in optimizer.param_groups)
    expected = train(plain, MAKERS[name](plain.parameters(), foreach=False), 20)
    torch.testing.assert_close(train(fused, optimizer, 20), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("choice", [{"fused": False}, {"foreach": True}, {"foreach": False}])
def test_a_choice_in_the_configuration_stands(choice):
    optimizer = prefer_fused(MAKERS["AdamW"](model().parameters(), **choice))
    assert optimizer.param_groups[0]["fused"] is choice.get("fused")
    assert optimizer.param_groups[0]["foreach"] is choice.get("foreach")


def test_other_optimisers_and_parameters_are_left_alone():
    sgd = torch.optim.SGD(model().parameters(), lr=0.1, momentum=0.9)
    before = copy.deepcopy(sgd.state_dict())
    assert prefer_fused(sgd).state_dict() == before
    complex_weight = nn.Parameter(torch.zeros(2, dtype=torch.complex64))
    groups = [{"params": model().parameters()}, {"params": [complex_weight]}]
    assert [group["fused"] for group in prefer_fused(torch.optim.AdamW(groups)).param_groups] == [
        True,
        None,
    ]


def test_a_parameter_may_receive_its_first_gradient_late():
    module = model()
    optimizer = prefer_fused(MAKERS["AdamW"](module.parameters()))
    module[2].requires_grad_(False)
    train(module, optimizer, 2)
    module[2].requires_grad_(True)
    before = module[2].weight.detach().clone()
    train(module, optimizer, 1)
    assert not torch.equal(module[2].weight, before)


def test_gradients_are_still_unscaled_by_the_scaler():
    """Else Lightning refuses to clip gradients under 16-mixed precision."""
    optimizer = prefer_fused(MAKERS["AdamW"](model().parameters()))
    assert not getattr(optimizer, "_step_supports_amp_scaling", False)


@pytest.mark.parametrize("name", MAKERS)
def test_training_resumes_from_a_checkpoint_of_the_plain_loop(name):
    plain = model()
    optimizer = MAKERS[name](plain.parameters())
    train(plain, optimizer, 5)
    fused = copy.deepcopy(plain)
    resumed = prefer_fused(MAKERS[name](fused.parameters()))
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert resumed.param_groups[0]["fused"] is True
    torch.testing.assert_close(train(fused, resumed, 10), train(plain, optimizer, 10), rtol=1e-4, atol=1e-6)


def test_a_checkpoint_with_other_groups_is_still_refused_by_torch():
    optimizer = prefer_fused(MAKERS["AdamW"](model().parameters()))
    state = optimizer.state_dict()
    state["param_groups"] *= 2
    with pytest.raises(ValueError, match="different number of parameter groups"):
        optimizer.load_state_dict(state)
