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


class Matched(nn.Module):
    """Its reason is known: it looks for bright squares of five pixels with a filter of that form.

    ``detect`` fires where the mean of a square is well above that of its surround; the logit is how much fired. Another
    seed gives slightly other weights, as another training would; ``deep`` sums the square in two layers.
    """

    def __init__(self, seed: int = 0, *, deep: bool = False) -> None:
        super().__init__()
        self.detect = nn.Conv2d(1, 4, 9, padding=4)
        self.then = nn.Conv2d(4, 4, 3, padding=1) if deep else nn.Identity()
        self.head = nn.Linear(4, 2)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            template = torch.full((9, 9), -1 / 56)
            template[2:7, 2:7] = 1 / 25
            for k in range(4):
                noise = torch.randn(9, 9, generator=generator) * 0.002
                self.detect.weight[k, 0] = template * (1 + 0.1 * k) + noise
                self.detect.bias[k] = -0.35
            if deep:
                self.then.weight.zero_()
                for k in range(4):
                    self.then.weight[k, k, 1, 1] = 1
                self.then.bias.zero_()
            self.head.weight.copy_(torch.tensor([[-1.0] * 4, [1.0] * 4]))
            self.head.bias.copy_(torch.tensor([0.25, -0.25]))

    def forward(self, x: Tensor) -> Tensor:
        fired = torch.relu(self.then(torch.relu(self.detect(x))))
        return self.head(fired.flatten(2).sum(2))


def films(count: int = 12, size: int = 40) -> list[dict[str, object]]:
    """Cases with edges that say nothing and, in two of three, a bright square that says everything."""
    items = []
    for number in range(count):
        generator = torch.Generator().manual_seed(100 + number)
        x = torch.linspace(0, 6 + number % 5, size)
        image = 0.25 * torch.sin(x)[:, None] * torch.cos(x)[None] + 0.04 * torch.randn(size, size, generator=generator)
        image[:, : 6 + number % 3] += 0.3
        mask = torch.zeros(size, size)
        if number % 3:
            row, column = torch.randint(8, size - 12, (2,), generator=generator).tolist()
            mask[row : row + 5, column : column + 5] = 1
            image = image + 0.9 * mask
        items.append(
            {
                "case": f"film-{number}", "patient": f"patient-{number}", "image": image[None], "mask": mask[None],
                "label": int(number % 3 > 0),
            }
        )  # fmt: skip
    return items
