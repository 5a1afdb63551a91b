"""Networks that name no classes: a U-Net, a feature pyramid, an embedding. Tiny, random, and with SE blocks."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F


class _SE(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, 4, 1)
        self.expand = nn.Conv2d(4, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.sigmoid(self.expand(F.relu(self.reduce(x.mean((2, 3), keepdim=True)))))


class _Stage(nn.Module):
    def __init__(self, width: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, channels, 3, stride, 1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.gate = _SE(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.gate(F.relu(self.norm(self.conv(x))))


class UNet(nn.Module):
    """N x 3 x 32 x 32 to N x 4 x 32 x 32, up by a transposed convolution and by resizing, skips by concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.top, self.middle, self.bottom = _Stage(3, 16), _Stage(16, 24, 2), _Stage(24, 32, 2)
        self.up = nn.ConvTranspose2d(32, 24, 2, 2)
        self.join = _Stage(48, 24)
        self.last = _Stage(40, 16)
        self.head = nn.Conv2d(16, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        top = self.top(x)
        middle = self.middle(top)
        up = self.join(torch.cat([self.up(self.bottom(middle)), middle], 1))
        up = F.interpolate(up, scale_factor=2.0, mode="nearest")
        return self.head(self.last(F.pad(torch.cat([up, top], 1), (0, 0, 0, 0))))


class Pyramid(nn.Module):
    """Two maps of features, as a detector's neck gives them: a list, without a name for either."""

    def __init__(self) -> None:
        super().__init__()
        self.top, self.bottom = _Stage(3, 16, 2), _Stage(16, 24, 2)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        top = self.top(x)
        return [top, self.bottom(top)]


class Embedding(nn.Module):
    """N x 12, of length one."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.neck = nn.Sequential(_Stage(3, 16, 2), _Stage(16, 24, 2)), nn.Linear(24, 12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.normalize(self.neck(self.body(x).mean((2, 3))))


def _seeded(kind: type[nn.Module]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return kind().eval()


def unet() -> nn.Module:
    return _seeded(UNet)


def pyramid() -> nn.Module:
    return _seeded(Pyramid)


def embedding() -> nn.Module:
    return _seeded(Embedding)
