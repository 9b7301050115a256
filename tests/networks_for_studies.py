"""Small networks for the tests of studies."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Branched(nn.Module):
    """Written in another order than it runs, with a skip, an activation in place, and a weight of its own."""

    def __init__(self, classes: int = 2) -> None:
        super().__init__()
        self.head = nn.Linear(4, classes)
        self.last = nn.Conv2d(4, 4, 3, padding=1)
        self.act = nn.ReLU(inplace=True)
        self.end = nn.ReLU(inplace=True)
        self.norm = nn.BatchNorm2d(4)
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.gate = nn.Parameter(torch.ones(4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.first(x))
        y = self.act(x) * self.gate  # the activation changes what the skip carries
        return self.head((self.end(self.last(y)) + x).flatten(2).mean(2))


def trained(network: nn.Module, seed: int = 5) -> nn.Module:
    """The network in evaluation, as if trained: every weight and statistic away from its initial value."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in network.state_dict().items():
            drawn = torch.randn(value.shape, generator=generator) * 0.4
            if "num_batches" in name:
                value.fill_(12)
            else:
                value.copy_(drawn.abs() + 0.5 if "running_var" in name or "norm.weight" in name else drawn)
    return network.eval()
