"""Patch U-Net's decoder against a re-statement that goes from patch to patch and from pixel to pixel."""

import pytest
import torch
import torch.nn.functional as F
from reference.slow_patches import slow_cut, slow_fold, slow_raw

from segbench.decoders.linear import LinearDecoder
from segbench.decoders.patch_unet import PatchUNet
from segbench.encoders.patch_vit import PatchViT
from segbench.encoders.timm_vit import TimmViT
from segbench.types import FeatureInfo, Features

P, K = 4, 5
INFO = FeatureInfo(channels=(3, 6), strides=(2, P), grid=(2, 3))


def small(info=INFO, **options):
    decoder = PatchUNet(
        info, K, **{"feature_dim": 7, "patch_dim": 10, "pos_dim": 2, "hidden": (9, 8)} | options
    )
    for parameter in decoder.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return decoder.eval()


def features(grid=(2, 3), size=None, batch=2):
    size = size or tuple(side * P for side in grid)
    return Features(torch.randn(batch, 3, *size), (torch.randn(batch, 3, 1, 1), torch.randn(batch, 6, *grid)))


def literal(decoder, image, feature_map, fold):
    """One image, in float64: concatenate, normalise, three layers, one vector of P·P·K for each patch."""
    weights = {name: value.double() for name, value in decoder.state_dict().items()}

    def linear(name, x):
        return weights[f"{name}.weight"] @ x + weights[f"{name}.bias"]

    grid = feature_map.shape[-2:]
    positions = weights["patches.position"][0].T.reshape(1, -1, *decoder.grid)
    positions = F.interpolate(positions, grid, mode="bilinear")[0].flatten(1).T
    vectors = []
    for number, patch in enumerate(slow_cut(image.double(), P)):
        token = feature_map[:, number // grid[1], number % grid[1]].double()
        if "reduce.weight" in weights:
            token = linear("reduce", token)
        x = torch.cat([linear("patches.project", patch), positions[number], token])
        x = (x - x.mean()) / (x.var(correction=0) + 1e-6).sqrt()
        x = x * weights["norm.weight"] + weights["norm.bias"]
        for layer in (0, 3):
            x = linear(f"mlp.{layer}", x).clamp(min=0)
        vectors.append(linear("head", x))
    return fold(vectors, tuple(grid), P).float()


@torch.no_grad()
@pytest.mark.parametrize("grid", [(2, 3), (3, 2), (1, 5)])  # the second and third resample positions
@pytest.mark.parametrize("feature_dim", [7, None])
def test_equals_the_literal_decoder(grid, feature_dim):
    decoder, given = small(feature_dim=feature_dim), features(grid)
    logits = decoder(given).logits
    for index in range(2):
        expected = literal(decoder, given.image[index], given.maps[-1][index], slow_fold)
        torch.testing.assert_close(logits[index], expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_raw_fold_equals_the_literal_reshape():
    decoder, given = small(fold="raw"), features()
    logits = decoder(given).logits
    expected = literal(decoder, given.image[0], given.maps[-1][0], slow_raw)
    torch.testing.assert_close(logits[0], expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_raw_fold_makes_each_row_of_one_patch_where_patches_fill_rows_as_in_the_report():
    info = FeatureInfo((6,), (P,), (P, P))  # P·P patches of P·P pixels, as 256 of 256 there
    plain, raw = small(info), small(info, fold="raw")
    raw.load_state_dict(plain.state_dict())
    given = features((P, P))
    folded, scattered = plain(given).logits, raw(given).logits
    for row in range(P * P):
        top, left = row // P * P, row % P * P
        assert torch.equal(scattered[:, :, row], folded[:, :, top : top + P, left : left + P].flatten(2))


@torch.no_grad()
def test_images_that_are_no_whole_patches_are_padded_and_cropped():
    decoder = small()
    given = features((3, 4), size=(9, 14))
    logits = decoder(given).logits
    assert logits.shape == (2, K, 9, 14)
    padded = Features(F.pad(given.image, (0, 2, 0, 3)), given.maps)
    torch.testing.assert_close(logits, decoder(padded).logits[..., :9, :14])


@torch.no_grad()
@pytest.mark.parametrize("size", [(48, 64), (40, 53), (17, 97)])
def test_any_size_on_the_shared_vit(size):
    encoder = TimmViT((48, 64), depths=[0]).eval()
    output = encoder(torch.randint(0, 256, (1, 3, *size)).float())
    logits = PatchUNet(encoder.info, K).eval()(output).logits
    assert logits.shape[-2:] == output.image.shape[-2:]
    assert LinearDecoder(encoder.info, K)(output).logits.shape[-1] * 16 == logits.shape[-1]


def test_the_report_has_60_927_264_parameters():
    encoder = PatchViT((256, 256))
    decoder = PatchUNet(encoder.info, 3, feature_dim=None)
    assert sum(p.numel() for module in (encoder, decoder) for p in module.parameters()) == 60_927_264
    rates = [module.p for module in decoder.modules() if isinstance(module, torch.nn.Dropout)]
    assert rates == [0.3, 0.3, 0.3]


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"hidden=\[512, 0\]"):
        PatchUNet(INFO, K, hidden=(512, 0))
    with pytest.raises(ValueError, match="2×4 patches of 4 pixels, but the deepest map has 2×3 cells"):
        small()(features((2, 3), size=(8, 16)))
    with pytest.raises(ValueError, match=r"needs images of 8×12.* set window and stride to \[8, 12\]"):
        small(fold="raw")(features((3, 3)))
