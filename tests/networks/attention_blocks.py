"""Attention blocks as people write them, for the recogniser's tests. None of these classes is known to the compiler."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class RSoftmax(nn.Module):
    """mmpretrain's: cardinal-major logits to radix-major weights."""

    def __init__(self, radix: int, groups: int) -> None:
        super().__init__()
        self.radix, self.groups = radix, groups

    def forward(self, x: Tensor) -> Tensor:
        batch = x.size(0)
        if self.radix > 1:
            x = x.view(batch, self.groups, self.radix, -1).transpose(1, 2)
            return F.softmax(x, dim=1).reshape(batch, -1)
        return torch.sigmoid(x)


class SplitAttention(nn.Module):
    """Split attention with every choice that the published spellings differ in.

    ``spelling``: ``reduce`` sums a 5-D view (timm, mmpretrain); ``split`` adds the parts in a chain (the authors);
    ``chunk`` is the same by torch.chunk; ``slice`` indexes; ``map5d`` keeps logits and weights five-dimensional (ZCls).
    """

    def __init__(
        self,
        channels: int,
        radix: int = 2,
        groups: int = 1,
        *,
        spelling: str = "reduce",
        stride: int = 1,
        dilation: int = 1,
        norm: bool = True,
        hidden: int = 8,
        act: type[nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__()
        self.radix, self.groups, self.spelling, self.channels = radix, groups, spelling, channels
        self.conv = nn.Conv2d(channels, channels * radix, 3, stride, dilation, dilation, groups * radix, bias=not norm)
        self.bn0 = nn.BatchNorm2d(channels * radix) if norm else nn.Identity()
        self.fc1 = nn.Conv2d(channels, hidden, 1, groups=groups)
        self.bn1 = nn.BatchNorm2d(hidden) if norm else nn.Identity()
        self.act = act()
        self.fc2 = nn.Conv2d(hidden, channels * radix, 1, groups=groups)
        self.rsoftmax = RSoftmax(radix, groups)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn0(self.conv(x)))
        batch, rc, height, width = x.shape
        if self.radix == 1:
            return x * self._weights(F.adaptive_avg_pool2d(x, 1)).view(batch, -1, 1, 1)
        if self.spelling in ("reduce", "map5d"):
            parts = x.view(batch, self.radix, rc // self.radix, height, width)
            pooled = F.adaptive_avg_pool2d(parts.sum(dim=1), 1)
            if self.spelling == "map5d":
                logits = self.fc2(self.act(self.bn1(self.fc1(pooled))))
                cube = logits.reshape(batch, self.groups, self.radix, rc // self.radix // self.groups, 1, 1)
                weights = torch.softmax(cube, dim=2).transpose(1, 2).reshape(batch, self.radix, rc // self.radix, 1, 1)
            else:
                weights = self._weights(pooled).view(batch, self.radix, rc // self.radix, 1, 1)
            return torch.sum(parts * weights, dim=1)
        branches = self._cut(x)
        pooled = F.adaptive_avg_pool2d(sum(branches[1:], start=branches[0]), 1)
        weights = self._cut(self._weights(pooled).view(batch, -1, 1, 1))
        gated = [w * b for w, b in zip(weights, branches, strict=True)]
        return sum(gated[1:], start=gated[0])

    def _weights(self, pooled: Tensor) -> Tensor:
        return self.rsoftmax(self.fc2(self.act(self.bn1(self.fc1(pooled)))))

    def _cut(self, x: Tensor) -> Sequence[Tensor]:
        if self.spelling == "split":
            return torch.split(x, self.channels, dim=1)
        if self.spelling == "chunk":
            return torch.chunk(x, self.radix, dim=1)
        return [x[:, r * self.channels : (r + 1) * self.channels] for r in range(self.radix)]


class SelectiveKernel(nn.Module):
    """SKNet as blogs write it: an FC per branch (``lists``) or for all (``joint``); stack and sum, or a ``chain``."""

    def __init__(
        self,
        channels: int,
        branches: int = 2,
        *,
        groups: int = 1,
        stride: int = 1,
        spelling: str = "lists",
        hidden: int = 8,
    ) -> None:
        super().__init__()
        self.spelling, self.branches, self.channels = spelling, branches, channels
        self.convs = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(channels, channels, 3, stride, 1 + i, dilation=1 + i, groups=groups, bias=False),
                nn.BatchNorm2d(channels),
                nn.ReLU(inplace=False),
            )
            for i in range(branches)
        )
        self.fc = nn.Linear(channels, hidden)
        count, width = (branches, channels) if spelling != "joint" else (1, channels * branches)
        self.fcs = nn.ModuleList(nn.Linear(hidden, width) for _ in range(count))

    def forward(self, x: Tensor) -> Tensor:
        features = [conv(x) for conv in self.convs]
        if self.spelling == "chain":
            total = features[0]
            for feature in features[1:]:
                total = total + feature
            z = F.relu(self.fc(total.mean(-1).mean(-1)))
            gates = torch.softmax(torch.stack([fc(z) for fc in self.fcs], dim=0), dim=0)
            out = features[0] * gates[0][:, :, None, None]
            for feature, gate in zip(features[1:], gates[1:], strict=True):
                out = out + feature * gate[:, :, None, None]
            return out
        stacked = torch.stack(features, dim=1)
        z = F.relu(self.fc(stacked.sum(dim=1).mean([2, 3])))
        if self.spelling == "joint":
            logits = self.fcs[0](z).view(-1, self.branches, self.channels)
        else:
            logits = torch.cat([fc(z).unsqueeze(dim=1) for fc in self.fcs], dim=1)
        weights = torch.softmax(logits, dim=1).unsqueeze(-1).unsqueeze(-1)
        return (stacked * weights).sum(dim=1)


class SqueezeExcite(nn.Module):
    """SE: ``linear`` or ``conv`` FCs; ReLU, SiLU or hard-swish; sigmoid or hard-sigmoid; average or max squeeze."""

    def __init__(
        self,
        channels: int,
        hidden: int = 4,
        *,
        linear: bool = True,
        bias: bool = True,
        norm: bool = False,
        act: type[nn.Module] = nn.ReLU,
        gate: type[nn.Module] = nn.Sigmoid,
        squeeze: str = "avg",
        expand: bool = False,
    ) -> None:
        super().__init__()
        self.linear, self.squeeze, self.expand = linear, squeeze, expand
        if linear:
            self.fc1, self.fc2 = nn.Linear(channels, hidden, bias=bias), nn.Linear(hidden, channels, bias=bias)
            self.bn: nn.Module = nn.BatchNorm1d(hidden) if norm else nn.Identity()
        else:
            self.fc1, self.fc2 = nn.Conv2d(channels, hidden, 1, bias=bias), nn.Conv2d(hidden, channels, 1, bias=bias)
            self.bn = nn.BatchNorm2d(hidden) if norm else nn.Identity()
        self.act, self.gate = act(), gate()

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, _, _ = x.shape
        pools = {
            "avg": lambda: F.adaptive_avg_pool2d(x, 1),
            "max": lambda: F.adaptive_max_pool2d(x, 1),
            "mean": lambda: x.mean((2, 3), keepdim=True),
            "amax": lambda: x.amax((2, 3), keepdim=True),
            "view": lambda: x.view(batch, channels, -1).mean(-1).view(batch, channels, 1, 1),
            "sum": lambda: x.sum((2, 3), keepdim=True) / (x.shape[2] * x.shape[3]),
        }
        s = pools[self.squeeze]()
        if self.linear:
            s = s.view(batch, channels)
        w = self.gate(self.fc2(self.act(self.bn(self.fc1(s))))).view(batch, channels, 1, 1)
        return x * (w.expand_as(x) if self.expand else w)


class Net(nn.Module):
    """A stem, one block, a head: the smallest network that a block can be found in."""

    def __init__(self, block: nn.Module, channels: int = 8) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 3, padding=1)
        self.block = block
        self.head = nn.Conv2d(channels, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.block(F.relu(self.stem(x))))).mean((2, 3))


class StackedFirst(nn.Module):
    """SKNet as a widely copied repository writes it: branches stacked along a new first axis, before the batch."""

    def __init__(self, channels: int, branches: int = 3, hidden: int = 8) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(channels, channels, 2 * i + 1, padding=i) for i in range(branches))
        self.fc = nn.Linear(channels, hidden)
        self.fcs = nn.ModuleList(nn.Linear(hidden, channels) for _ in range(branches))

    def forward(self, x: Tensor) -> Tensor:
        batch, channels = x.shape[:2]
        maps = [conv(x) for conv in self.convs]
        stacked = torch.stack(maps, 0)
        z = self.fc(sum(maps[1:], start=maps[0]).mean(-1).mean(-1))
        logits = torch.stack([fc(F.relu(z)).view(batch, channels, 1, 1) for fc in self.fcs], 0)
        return (torch.softmax(logits, dim=0) * stacked).sum(0)
