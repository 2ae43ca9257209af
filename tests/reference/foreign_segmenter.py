"""A small network in the layout of official Segmenter's checkpoints, and its evaluation, written afresh.

Follows what is known of https://github.com/rstrudel/segmenter: names and shapes of weights, epsilon 1e-5, the
bilinear position embedding, zeros at the bottom and right, upsampling to the padded size before the crop.
"""

import torch
import yaml
from torch import nn
from torch.nn import functional as F

STATISTICS = {  # mean and deviation of pixels in 0..255, rounded to two decimals
    "vit": ([127.5, 127.5, 127.5], [127.5, 127.5, 127.5]),
    "deit": ([123.68, 116.28, 103.53], [58.4, 57.12, 57.38]),
}


def bilinear(maps, size):
    return F.interpolate(maps, size, mode="bilinear", align_corners=False)


class Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x):
        images, tokens, width = x.shape
        q, k, v = self.qkv(x).reshape(images, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(2, 3) / (width // self.heads) ** 0.5).softmax(-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(images, tokens, width))


class Mlp(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn, self.mlp = Attention(width, heads), Mlp(width)

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class PatchEmbed(nn.Module):
    def __init__(self, patch, width):
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch, patch)


class Encoder(nn.Module):
    def __init__(self, crop, patch, width, heads, layers, distilled):
        super().__init__()
        self.patch, self.extra = patch, 1 + distilled
        self.grid = (crop[0] // patch, crop[1] // patch)
        self.patch_embed = PatchEmbed(patch, width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        if distilled:
            self.dist_token = nn.Parameter(torch.zeros(1, 1, width))
            self.head_dist = nn.Linear(width, 10)
        self.pos_embed = nn.Parameter(torch.zeros(1, self.extra + self.grid[0] * self.grid[1], width))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 10)

    def forward(self, image):
        maps = self.patch_embed.proj(image)
        special = [self.cls_token] + ([self.dist_token] if self.extra == 2 else [])
        tokens = [token.expand(len(image), -1, -1) for token in special] + [maps.flatten(2).transpose(1, 2)]
        x, position = torch.cat(tokens, 1), self.pos_embed
        if x.shape[1] != position.shape[1]:
            of_extra, of_grid = position[:, : self.extra], position[:, self.extra :]
            square = of_grid.transpose(1, 2).reshape(1, -1, *self.grid)
            position = torch.cat([of_extra, bilinear(square, maps.shape[2:]).flatten(2).transpose(1, 2)], 1)
        x = x + position
        for block in self.blocks:
            x = block(x)
        return self.norm(x)[:, self.extra :], maps.shape[2:]


class Linear(nn.Module):
    def __init__(self, width, classes):
        super().__init__()
        self.head = nn.Linear(width, classes)

    def forward(self, x):
        return self.head(x)


class Mask(nn.Module):
    def __init__(self, width, classes, layers):
        super().__init__()
        self.cls_emb = nn.Parameter(torch.zeros(1, classes, width))
        self.proj_dec = nn.Linear(width, width)
        self.blocks = nn.ModuleList(Block(width, width // 64) for _ in range(layers))
        self.proj_patch = nn.Parameter(torch.zeros(width, width))
        self.proj_classes = nn.Parameter(torch.zeros(width, width))
        self.decoder_norm, self.mask_norm = nn.LayerNorm(width), nn.LayerNorm(classes)

    def forward(self, x):
        patches = x.shape[1]
        x = torch.cat([self.proj_dec(x), self.cls_emb.expand(len(x), -1, -1)], 1)
        for block in self.blocks:
            x = block(x)
        x = self.decoder_norm(x)
        seen, asked = x[:, :patches] @ self.proj_patch, x[:, patches:] @ self.proj_classes
        seen, asked = seen / seen.norm(dim=-1, keepdim=True), asked / asked.norm(dim=-1, keepdim=True)
        return self.mask_norm(seen @ asked.transpose(1, 2))


class Segmenter(nn.Module):
    """Takes normalised images, gives logits `(B, K, H, W)`."""

    def __init__(
        self,
        decoder,
        classes=5,
        crop=(64, 64),
        patch=16,
        width=192,
        layers=2,
        distilled=False,
        decoder_layers=2,
    ):
        super().__init__()
        self.classes, self.crop, self.patch, self.name, self.distilled = (
            classes,
            crop,
            patch,
            decoder,
            distilled,
        )
        self.encoder = Encoder(crop, patch, width, width // 64, layers, distilled)
        self.decoder = Linear(width, classes) if decoder == "linear" else Mask(width, classes, decoder_layers)
        randomize(self)

    def forward(self, image):
        height, width = image.shape[2:]
        padded = F.pad(image, (0, -width % self.patch, 0, -height % self.patch))
        x, grid = self.encoder(padded)
        maps = self.decoder(x).transpose(1, 2).reshape(len(image), -1, *grid)
        return bilinear(maps, padded.shape[2:])[:, :, :height, :width]

    def variant(self, **dataset_kwargs):
        """Returns what train.py would have written to variant.yml."""
        encoder = self.encoder
        width = encoder.cls_token.shape[-1]
        data = {"dataset": "ade20k", "image_size": self.crop[0], "crop_size": self.crop[0]}
        data |= {"normalization": "deit" if self.distilled else "vit", "split": "train", "batch_size": 8}
        decoder = {"name": "linear", "n_cls": self.classes}
        if self.name == "mask":
            decoder = {"drop_path_rate": 0.0, "dropout": 0.1, "n_layers": len(self.decoder.blocks)}
            decoder |= {"name": "mask_transformer", "n_cls": self.classes}
        return {
            "world_batch_size": 8,
            "version": "normal",
            "dataset_kwargs": data | dataset_kwargs,
            "algorithm_kwargs": {"batch_size": 8, "start_epoch": 0, "num_epochs": 64, "eval_freq": 2},
            "optimizer_kwargs": {"opt": "sgd", "lr": 0.001, "weight_decay": 0.0, "momentum": 0.9}
            | {"clip_grad": None, "sched": "polynomial", "epochs": 64, "min_lr": 1e-5, "poly_power": 0.9},
            "net_kwargs": {
                "image_size": tuple(self.crop),
                "patch_size": self.patch,
                "d_model": width,
                "n_heads": width // 64,
                "n_layers": len(encoder.blocks),
                "normalization": "deit" if self.distilled else "vit",
                "distilled": self.distilled,
                "backbone": "some_vit",
                "dropout": 0.0,
                "drop_path_rate": 0.1,
                "decoder": decoder,
                "n_cls": self.classes,
            },
            "amp": False,
            "log_dir": "somewhere",
            "inference_kwargs": {"im_size": self.crop[0], "window_size": self.crop[0], "window_stride": 16},
        }

    def checkpoint(self):
        """Returns what train.py would have saved to checkpoint.pth, after a step of its optimiser."""
        optimizer = torch.optim.SGD(self.parameters(), lr=0.001, momentum=0.9, nesterov=True)
        return {
            "model": self.state_dict(),
            "optimizer": optimizer.state_dict(),
            "n_cls": self.classes,
            "lr_scheduler": {"base_lrs": [0.001], "last_epoch": 3},
            "epoch": 1,
        }

    def save(self, folder, **dataset_kwargs):
        """Writes checkpoint.pth and variant.yml, image sizes as tuples, as `yaml.dump` does."""
        folder.mkdir(exist_ok=True)
        torch.save(self.checkpoint(), folder / "checkpoint.pth")
        (folder / "variant.yml").write_text(yaml.dump(self.variant(**dataset_kwargs)))
        return folder / "checkpoint.pth"

    def normalized(self, image):
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in STATISTICS["deit" if self.distilled else "vit"])
        return (image - mean) / std


def randomize(module):
    """Draws every parameter, and the patch embedding so small that epsilon counts."""
    generator = torch.Generator().manual_seed(1)
    for name, value in module.named_parameters():
        # Classes unlike each other: the norm over them would blow up rounding errors of equal ones.
        std = 0.003 if "patch_embed" in name else 1.0 if "cls_emb" in name else 0.05
        start = 1.0 if value.dim() == 1 and name.endswith("weight") else 0.0
        with torch.no_grad():
            value.copy_(start + std * torch.randn(value.shape, generator=generator))


def windows(length, window, stride):
    return [start for start in range(0, length, stride) if start < length - window] + [length - window]


def merged_logits(model, image, window, stride, out_size):
    """Averages the logits of all windows of one normalised image, and resizes: `(K, *out_size)`."""
    height, width = image.shape[2:]
    if min(height, width) < window:
        size = (
            (window, int(width / height * window)) if height < width else (int(height / width * window), window)
        )
        image = bilinear(image, size)
        height, width = size
    total, count = torch.zeros(model.classes, height, width), torch.zeros(height, width)
    for top in windows(height, window, stride):
        for left in windows(width, window, stride):
            part = slice(top, top + window), slice(left, left + window)
            total[:, part[0], part[1]] += model(image[:, :, part[0], part[1]])[0]
            count[part] += 1
    return bilinear((total / count)[None], out_size)[0]


def probabilities(model, images, flipped, window, stride, out_size):
    """Averages, over several views of one image, the softmax of what `merged_logits` gives."""
    total = 0.0
    for image, flip in zip(images, flipped, strict=True):
        logits = merged_logits(model, image, window, stride, out_size)
        total = total + (logits.flip(2) if flip else logits).softmax(0)
    return total / len(images)
