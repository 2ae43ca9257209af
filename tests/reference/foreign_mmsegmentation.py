"""Small networks in the layout of MMSegmentation's checkpoints, and its tests in windows, written afresh.

Follows what is known of https://github.com/open-mmlab/mmsegmentation (0.29 and 1.x) and of the MeanShifter's
head in https://github.com/JohnnyKaz/mmsegmentation: names and shapes of weights, epsilon 1e-6 in the backbone
and 1e-5 in the head, the bicubic position embedding, upsampling to the unpadded size.
"""

import torch
from reference.foreign_segmenter import bilinear, randomize
from torch import nn
from torch.nn import functional as F


class Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)

    def forward(self, x):
        return self.attn(x, x, x, need_weights=True)[0]  # with weights: the plain path, no fused kernel


class FeedForward(nn.Module):
    def __init__(self, width):
        super().__init__()
        first = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Dropout(0.0))
        self.layers = nn.Sequential(first, nn.Linear(4 * width, width), nn.Dropout(0.0))

    def forward(self, x):
        return self.layers(x)


class Layer(nn.Module):
    def __init__(self, width, heads, eps):
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(width, eps=eps), nn.LayerNorm(width, eps=eps)
        self.attn, self.ffn = Attention(width, heads), FeedForward(width)

    def forward(self, x):
        x = x + self.attn(self.ln1(x))
        return x + self.ffn(self.ln2(x))


class PatchEmbed(nn.Module):
    def __init__(self, patch, width):
        super().__init__()
        self.projection = nn.Conv2d(3, width, patch, patch)


class Backbone(nn.Module):
    def __init__(self, crop, patch, width, layers):
        super().__init__()
        self.patch, self.grid = patch, (crop[0] // patch, crop[1] // patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + self.grid[0] * self.grid[1], width))
        self.patch_embed = PatchEmbed(patch, width)
        self.layers = nn.ModuleList(Layer(width, width // 64, 1e-6) for _ in range(layers))
        self.ln1 = nn.LayerNorm(width, eps=1e-6)

    def forward(self, image):
        height, width = image.shape[2:]
        image = F.pad(image, (0, -width % self.patch, 0, -height % self.patch))
        maps = self.patch_embed.projection(image)
        x = torch.cat([self.cls_token.expand(len(image), -1, -1), maps.flatten(2).transpose(1, 2)], 1)
        position = self.pos_embed
        if x.shape[1] != position.shape[1]:
            square = position[:, 1:].transpose(1, 2).reshape(1, -1, *self.grid)
            resized = F.interpolate(square, maps.shape[2:], mode="bicubic", align_corners=False)
            position = torch.cat([position[:, :1], resized.flatten(2).transpose(1, 2)], 1)
        x = x + position
        for layer in self.layers:
            x = layer(x)
        return self.ln1(x)[:, 1:].transpose(1, 2).reshape(maps.shape)


class LinearHead(nn.Module):
    def __init__(self, width, classes):
        super().__init__()
        self.conv_seg = nn.Conv2d(width, classes, 1)

    def forward(self, maps):
        return self.conv_seg(maps)


class MeanShiftHead(nn.Module):
    def __init__(self, width, classes, dim, iterations):
        super().__init__()
        self.iterations = iterations
        self.q = nn.Linear(width, dim)
        self.conv_seg = nn.Conv2d(width, classes, 1)

    def forward(self, maps):
        x = maps.flatten(2).transpose(1, 2)
        for _ in range(self.iterations):
            q = self.q(x)
            x = (q @ q.transpose(1, 2) * q.shape[-1] ** -0.5).softmax(-1) @ x
        return self.conv_seg(x.transpose(1, 2).reshape(maps.shape))


class MaskHead(nn.Module):
    def __init__(self, width, classes, layers):
        super().__init__()
        self.cls_emb = nn.Parameter(torch.zeros(1, classes, width))
        self.dec_proj = nn.Linear(width, width)
        self.patch_proj = nn.Linear(width, width, bias=False)
        self.classes_proj = nn.Linear(width, width, bias=False)
        self.layers = nn.ModuleList(Layer(width, width // 64, 1e-5) for _ in range(layers))
        self.decoder_norm, self.mask_norm = nn.LayerNorm(width), nn.LayerNorm(classes)

    def forward(self, maps):
        cells = maps.shape[2] * maps.shape[3]
        x = self.dec_proj(maps.flatten(2).transpose(1, 2))
        x = torch.cat([x, self.cls_emb.expand(len(x), -1, -1)], 1)
        for layer in self.layers:
            x = layer(x)
        x = self.decoder_norm(x)
        patches = F.normalize(self.patch_proj(x[:, :cells]), dim=2, p=2)
        classes = F.normalize(self.classes_proj(x[:, cells:]), dim=2, p=2)
        masks = self.mask_norm(patches @ classes.transpose(1, 2))
        return masks.transpose(1, 2).reshape(len(maps), -1, *maps.shape[2:])


class EncoderDecoder(nn.Module):
    """Takes normalised images, gives logits `(B, K, H, W)`."""

    def __init__(self, head, classes=5, crop=(64, 64), patch=16, width=192, layers=2, iterations=2):
        super().__init__()
        self.head, self.classes, self.crop, self.iterations = head, classes, crop, iterations
        self.backbone = Backbone(crop, patch, width, layers)
        self.decode_head = {
            "linear": lambda: LinearHead(width, classes),
            "mean shift": lambda: MeanShiftHead(width, classes, 48, iterations),
            "mask": lambda: MaskHead(width, classes, 2),
        }[head]()
        randomize(self)

    def forward(self, image):
        return bilinear(self.decode_head(self.backbone(image)), image.shape[2:])

    def config(self, version):
        """Returns the resolved configuration as the checkpoint's meta has it: Python source."""
        width = self.backbone.cls_token.shape[-1]
        heads = {
            "linear": "type='FCNHead', num_convs=0, concat_input=False",
            "mean shift": f"type='MeanshiftLinearHead', meanshift_layers={self.iterations}",
            "mask": f"type='SegmenterMaskTransformerHead', num_layers=2, num_heads={width // 64}",
        }[self.head]
        model = f"""
norm_cfg = dict(type='SyncBN', requires_grad=True)
backbone_norm_cfg = dict(type='LN', eps=1e-06, requires_grad=True)
model = dict(
    type='EncoderDecoder',
    pretrained='pretrain/vit.pth',
    backbone=dict(type='VisionTransformer', img_size={self.crop}, patch_size={self.backbone.patch},
        embed_dims={width}, num_layers={len(self.backbone.layers)}, num_heads={width // 64},
        drop_path_rate=0.1, final_norm=True, norm_cfg=dict(type='LN', eps=1e-06, requires_grad=True),
        with_cls_token=True, interpolate_mode='bicubic'),
    decode_head=dict({heads}, num_classes={self.classes}, loss_decode=dict(type='CrossEntropyLoss')),
    test_cfg=dict(mode='slide', crop_size={self.crop}, stride=({self.crop[0] - 16}, {self.crop[1] - 16})))
dataset_type = 'ADE20KDataset'
"""
        if version == "0.x":
            return (
                model
                + """
img_norm_cfg = dict(mean=[127.5, 127.5, 127.5], std=[127.5, 127.5, 127.5], to_rgb=True)
test_pipeline = [dict(type='LoadImageFromFile'), dict(type='MultiScaleFlipAug', img_scale=(300, 90),
    flip=False, transforms=[dict(type='Resize', keep_ratio=True), dict(type='Normalize')])]
optimizer = dict(type='SGD', lr=0.002, momentum=0.8, weight_decay=0.0)
lr_config = dict(policy='poly', power=0.7, min_lr=0.0003, by_epoch=False)
"""
            )
        return (
            model.replace(
                "test_cfg=",
                """data_preprocessor=dict(type='SegDataPreProcessor',
        mean=[127.5, 127.5, 127.5], std=[127.5, 127.5, 127.5], bgr_to_rgb=True),
    test_cfg=""",
            )
            + """
test_pipeline = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=(300, 90), keep_ratio=True)]
optim_wrapper = dict(type='OptimWrapper', clip_grad=None,
    optimizer=dict(type='SGD', lr=0.002, momentum=0.8, weight_decay=0.0))
param_scheduler = [dict(type='PolyLR', eta_min=0.0003, power=0.7, begin=0, end=160000, by_epoch=False)]
test_cfg = dict(type='TestLoop')
"""
        )

    def meta(self, version):
        names = tuple(f"kind {index}" for index in range(self.classes))
        palette = [[index, 7, 9] for index in range(self.classes)]
        if version == "0.x":
            text = self.config(version)
            return {"mmseg_version": "0.29.0", "config": text, "CLASSES": names, "PALETTE": palette}
        told = {"classes": names, "palette": palette}
        return {"mmengine_version": "0.7.0", "cfg": self.config(version), "dataset_meta": told}

    def save(self, path, version="0.x"):
        content = {"meta": self.meta(version), "state_dict": self.state_dict(), "optimizer": {"state": {}}}
        if version == "plain":
            content = {"state_dict": self.state_dict()}
        torch.save(content, path)
        return path


def normalized(image):
    return (image - 127.5) / 127.5


def slide(model, image, window, stride, out_size):
    """Averages the logits of windows, each cut to the image, and resizes them: `(K, *out_size)`."""
    height, width = image.shape[2:]
    total, count = torch.zeros(1, model.classes, height, width), torch.zeros(height, width)
    for row in range(max(height - window[0] + stride[0] - 1, 0) // stride[0] + 1):
        for column in range(max(width - window[1] + stride[1] - 1, 0) // stride[1] + 1):
            bottom = min(row * stride[0] + window[0], height)
            right = min(column * stride[1] + window[1], width)
            top, left = max(bottom - window[0], 0), max(right - window[1], 0)
            total[:, :, top:bottom, left:right] += model(image[:, :, top:bottom, left:right])
            count[top:bottom, left:right] += 1
    return bilinear(total / count, out_size)[0]
