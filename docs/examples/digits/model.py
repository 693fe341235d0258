"""The network: three convolutions and a linear layer over 8x8 grey images."""

import torch
from torch import nn


class DigitsNet(nn.Module):
    """Image in [0, 1] of shape [batch, 1, 8, 8] -> ten logits."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *conv_block(1, width),
            *conv_block(width, width),
            nn.MaxPool2d(2),  # 8x8 -> 4x4
            *conv_block(width, 2 * width),
            nn.MaxPool2d(2),  # 4x4 -> 2x2
        )
        self.classifier = nn.Sequential(
            nn.Flatten(), nn.Dropout(0.3), nn.Linear(2 * width * 2 * 2, 10)
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.features(image))


def conv_block(channels_in: int, channels_out: int) -> list[nn.Module]:
    return [
        nn.Conv2d(channels_in, channels_out, kernel_size=3, padding=1, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(),
    ]


class WastefulNet(DigitsNet):
    """The same answers, for fifty times the work: somebody left an experiment in."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        weights = torch.randn(96, 96, 3, 3) / 29.4  # keeps the size of what goes through
        self.register_buffer("experiment", weights, persistent=False)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        waste = image.repeat(1, 96, 4, 4)
        for _ in range(3):
            waste = torch.tanh(nn.functional.conv2d(waste, self.experiment, padding=1))
        return super().forward(image) + 1e-30 * waste.mean(dim=(1, 2, 3))[:, None]


def make_model() -> nn.Module:
    """What `source` in sdk.toml names; the SDK loads the checkpoint into it."""
    return DigitsNet()


def make_wasteful_model() -> nn.Module:
    """What deliver.py builds, publishes, and sees taken back."""
    return WastefulNet()
