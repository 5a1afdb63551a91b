"""Random weights become something that precision can be measured on."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from radixrt.errors import InputError
from radixrt.export.source.module_inputs import ModuleInputs
from radixrt.export.source.randomise import ENLIVENED, enliven, fit_statistics

IMAGE = ModuleInputs.image((3, 6, 6))


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Dropout(0.9), nn.ReLU(), nn.Flatten()).eval()


def images(count: int, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal((count, 3, 6, 6)) * 7 + 3).astype(np.float32)


def test_statistics_are_the_average_over_the_batches() -> None:
    net = network()
    batches = [images(4, seed) for seed in range(3)]
    maps = [net[0](torch.from_numpy(batch)).detach() for batch in batches]
    fit_statistics(net, IMAGE, [{"input": batch} for batch in batches])
    norm = net[1]
    assert isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None and norm.running_var is not None
    mean = torch.stack([m.mean((0, 2, 3)) for m in maps]).mean(0)
    variance = torch.stack([m.var((0, 2, 3)) for m in maps]).mean(0)
    torch.testing.assert_close(norm.running_mean, mean, rtol=1e-4, atol=1e-4)  # float32 sums in another order
    torch.testing.assert_close(norm.running_var, variance, rtol=1e-4, atol=1e-4)


def test_the_network_is_back_in_eval_mode_with_its_momentum() -> None:
    net = network()
    fit_statistics(net, IMAGE, [{"input": images(4)}])
    assert not any(module.training for module in net.modules())
    assert isinstance(net[1], nn.BatchNorm2d) and net[1].momentum == 0.1
    first, second = (net(torch.from_numpy(images(2))) for _ in range(2))
    assert torch.equal(first, second)
    fit_statistics(nn.Sequential(nn.Conv2d(3, 1, 1)), IMAGE, [])  # nothing to fit is no error


def test_single_images_do_not_count() -> None:
    with pytest.raises(InputError, match="two calibration images"):
        fit_statistics(network(), IMAGE, [{"input": images(1)}, {"input": images(1)}])


def test_images_that_overflow_are_refused_by_name() -> None:
    with pytest.raises(InputError, match=r"1\.running_mean"):
        fit_statistics(network(), IMAGE, [{"input": np.full((2, 3, 6, 6), np.inf, np.float32)}])


def test_dead_branches_come_alive_and_biases_stay() -> None:
    net = network()
    nn.init.zeros_(net[1].weight)  # type: ignore[arg-type]
    enliven(net)
    assert torch.equal(net[1].weight, torch.full((8,), ENLIVENED))  # type: ignore[arg-type]
    assert torch.equal(net[1].bias, torch.zeros(8))  # type: ignore[arg-type]
