"""Groups and schedules."""

import math

import pytest
import timm
import torch
from torch import nn

from segbench.encoders.patch_vit import PatchViT
from segbench.encoders.timm_vit import TimmViT
from segbench.layers.local_attention import LocalAttention
from segbench.layers.patch_tokens import PatchTokens
from segbench.optim.groups import parameter_groups, scale_learning_rates
from segbench.optim.schedules import Cosine, Poly


def test_groups_hold_every_trainable_parameter_once():
    encoder, head = TimmViT((32, 32)), nn.Linear(192, 5)
    groups = parameter_groups(
        encoder.depth_groups(), encoder.no_weight_decay(), [head], encoder_lr_scale=0.1, layer_decay=0.5
    )
    grouped = [p for group in groups for p in group["params"]]
    assert len(grouped) == len({id(p) for p in grouped})
    assert {id(p) for p in grouped} == {id(p) for m in (encoder, head) for p in m.parameters()}


def test_rates_fall_with_depth_and_decay_spares_norms_and_positions():
    encoder, head = TimmViT((32, 32)), nn.Linear(192, 5)
    groups = parameter_groups(
        encoder.depth_groups(), encoder.no_weight_decay(), [head], encoder_lr_scale=0.1, layer_decay=0.5
    )
    optimizer = scale_learning_rates(torch.optim.AdamW(groups, lr=1.0, weight_decay=0.05))
    found = {id(p): (g["lr"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}
    vit = encoder.vit
    assert found[id(head.weight)] == (1.0, 0.05)
    assert found[id(head.bias)] == (1.0, 0.0)
    assert found[id(vit.blocks[11].mlp.fc1.weight)] == (pytest.approx(0.1), 0.05)
    assert found[id(vit.blocks[10].mlp.fc1.weight)] == (pytest.approx(0.05), 0.05)
    assert found[id(vit.pos_embed)] == (pytest.approx(0.1 * 0.5**12), 0.0)
    assert found[id(vit.blocks[0].norm1.weight)] == (pytest.approx(0.1 * 0.5**11), 0.0)


def test_layers_deep_inside_a_decoder_name_what_does_not_decay():
    decoder = nn.Sequential(PatchTokens(4, (2, 2), 8, 3), LocalAttention(8, 8))
    groups = parameter_groups([(0, [])], set(), [nn.Sequential(decoder)])
    spared = {id(p) for group in groups if group.get("weight_decay") == 0 for p in group["params"]}
    names = {name for name, p in decoder.named_parameters() if id(p) in spared and p.ndim > 1}
    assert names == {"0.position", "1.penalty"}


def test_a_module_of_timm_inside_a_decoder_names_what_does_not_decay():
    vit = timm.create_model("vit_tiny_patch16_224", depth=1)  # names register tokens that it has not
    groups = parameter_groups([(0, [])], set(), [nn.Sequential(vit)])
    spared = {id(p) for group in groups if group.get("weight_decay") == 0 for p in group["params"]}
    assert id(vit.pos_embed) in spared
    assert id(vit.blocks[0].mlp.fc1.weight) not in spared


def test_the_position_of_the_small_encoder_does_not_decay():
    encoder = PatchViT((32, 32), depth=1, hidden=(8,), bottleneck=(8,))
    groups = parameter_groups(encoder.depth_groups(), encoder.no_weight_decay(), [])
    spared = {id(p) for group in groups if group.get("weight_decay") == 0 for p in group["params"]}
    assert [name for name, p in encoder.named_parameters() if id(p) in spared and p.ndim > 1] == [
        "patches.position"
    ]


def test_frozen_parameters_are_left_out():
    groups = parameter_groups(TimmViT((32, 32), frozen=True).depth_groups(), set(), [nn.Linear(2, 2)])
    assert sum(len(group["params"]) for group in groups) == 2


@pytest.mark.parametrize("options", [{"encoder_lr_scale": 0}, {"layer_decay": 1.5}])
def test_group_mistakes(options):
    with pytest.raises(ValueError, match="above 0"):
        parameter_groups(TimmViT((32, 32)).depth_groups(), set(), [], **options)


def run(schedule_class, steps, lrs=(1.0,), **options):
    groups = [{"params": [nn.Parameter(torch.zeros(1))], "lr": lr, "lr_scale": lr} for lr in lrs]
    optimizer = torch.optim.SGD(groups, lr=1.0)
    schedule = schedule_class(optimizer, **options)
    rates = []
    for _ in range(steps):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    return rates


def test_poly_is_segmenters_formula():
    rates = run(Poly, 11, total_steps=10, power=0.9, min_lr=0.01)
    expected = [(1 - 0.01) * (1 - t / 10) ** 0.9 + 0.01 for t in range(11)]
    assert [rate for (rate,) in rates] == pytest.approx(expected)


def test_cosine_after_warm_up():
    rates = [rate for (rate,) in run(Cosine, 12, total_steps=12, warmup_steps=2, min_lr=0.1)]
    assert rates[:2] == pytest.approx([1 / 3, 2 / 3])
    expected = [0.1 + 0.9 * (1 + math.cos(math.pi * t / 10)) / 2 for t in range(10)]
    assert rates[2:] == pytest.approx(expected)


def test_groups_keep_their_ratio_down_to_the_floor():
    for full, tenth in run(Poly, 11, lrs=(1.0, 0.1), total_steps=10, min_lr=0.01):
        assert tenth == pytest.approx(full / 10)


def test_a_longer_training_is_not_cut_short_by_the_saved_schedule():
    def make(total):
        return Poly(torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0), total, power=1.0)

    short, long = make(10), make(100)
    short.optimizer.step()
    short.step()
    long.load_state_dict(short.state_dict())
    assert long.get_last_lr() == pytest.approx([0.99])


def test_schedule_mistakes():
    with pytest.raises(ValueError, match="10 optimiser steps cannot have 10 of warm-up"):
        run(Poly, 1, total_steps=10, warmup_steps=10)
