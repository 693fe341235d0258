"""Train the network and write digits.safetensors: well under a minute on one CPU core.

python train.py          does nothing if the checkpoint is newer than the code
python train.py --force  trains anyway
"""

import sys
import time
from pathlib import Path

import torch
from data import training_digits, unseen_digits
from model import make_model
from safetensors.torch import save_file
from torch import nn

HERE = Path(__file__).resolve().parent
CHECKPOINT = HERE / "digits.safetensors"
EPOCHS = 24
BATCH = 50
PEAK_LEARNING_RATE = 3e-3


def main() -> None:
    if is_fresh() and "--force" not in sys.argv[1:]:
        print(f"{CHECKPOINT.name} is newer than the code: nothing to do (--force trains anyway).")
        return
    started = time.monotonic()
    model = train()
    correct, total = evaluate(model)
    write_checkpoint(model)
    print(
        f"{correct} of {total} unseen digits are right ({correct / total:.2%}). "
        f"Wrote {CHECKPOINT.name} after {time.monotonic() - started:.0f} s."
    )


def is_fresh() -> bool:
    """Is the checkpoint newer than all that shapes it?"""
    if not CHECKPOINT.exists():
        return False
    sources = [HERE / name for name in ("train.py", "model.py", "data.py")]
    return CHECKPOINT.stat().st_mtime > max(source.stat().st_mtime for source in sources)


def train() -> nn.Module:
    torch.manual_seed(0)
    torch.set_num_threads(1)  # sums in one order: the same weights on any number of cores
    images, labels = (torch.from_numpy(array) for array in training_digits())
    model = make_model().train()
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        max_lr=PEAK_LEARNING_RATE,
        total_steps=EPOCHS * len(images) // BATCH,
    )
    loss_of = nn.CrossEntropyLoss(label_smoothing=0.1)
    for epoch in range(EPOCHS):
        losses = []
        for batch in torch.randperm(len(images)).split(BATCH):
            loss = loss_of(model(jitter(images[batch])), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        if (epoch + 1) % 8 == 0:
            print(f"epoch {epoch + 1:3} of {EPOCHS}: loss {sum(losses) / len(losses):.3f}")
    return model.eval()


def jitter(images: torch.Tensor) -> torch.Tensor:
    """Each image turned, scaled and shifted a little, by its own random amount."""
    count = len(images)
    angle = (torch.rand(count) - 0.5) * 0.4  # within 0.2 radians either way
    scale = 1 + (torch.rand(count) - 0.5) * 0.2
    shift = (torch.rand(count, 2) - 0.5) * 0.4  # the image spans -1 to 1: within 0.8 pixels
    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    rows = (torch.stack([cos, -sin, shift[:, 0]], 1), torch.stack([sin, cos, shift[:, 1]], 1))
    grid = nn.functional.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    return nn.functional.grid_sample(images, grid, align_corners=False)


@torch.inference_mode()
def evaluate(model: nn.Module) -> tuple[int, int]:
    """How many of the unseen digits are right, and how many there are."""
    images, labels = (torch.from_numpy(array) for array in unseen_digits())
    return int((model(images).argmax(1) == labels).sum()), len(labels)


def write_checkpoint(model: nn.Module) -> None:
    """Beside first, then moved into place, so that an interrupted run leaves no broken file."""
    beside = CHECKPOINT.with_suffix(".partial")
    save_file(model.state_dict(), beside)
    beside.replace(CHECKPOINT)


if __name__ == "__main__":
    main()
