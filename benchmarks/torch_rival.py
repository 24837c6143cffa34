"""Turns a folder of images into PyTorch's rates, in a process of its own.

TensorFlow's threads would be in the way of PyTorch's, and the loader's worker
processes are forked, which a process with TensorFlow in it does not survive
for sure. So this module knows no TensorFlow: a parent starts it and asks for
a figure whenever it is PyTorch's turn.

PyTorch is no dependency. Where it is not installed, its rows are left out.
"""

import argparse
import contextlib
import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image

from benchmarks.settings import BATCH, ROOT

WORKERS = 2
MISSING = "PyTorch is not installed, so that its rows are left out."

# What it can be asked for.
_LOAD, _LOAD_DRAFT, _TRAIN = "load", "load-draft", "train"


def is_installed() -> bool:
    return importlib.util.find_spec("torch") is not None


# The parent's side.


class TorchRival:
    """PyTorch on a folder, kept waiting until asked; close it in the end."""

    def __init__(self, what: str, folder: str, size: int):
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, what, folder, str(size)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )

    def rate(self, batches: int, warm: int) -> float:
        """Images/s of so many batches that follow on some others."""
        print(batches, warm, file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError("PyTorch's process has ended, see above.")
        return float(answer)

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()


def rivals(
    closing: contextlib.ExitStack,
    names: dict[str, str],
    folder: str,
    size: int,
    batches: int,
    warm: int,
) -> dict[str, Callable[[], float]]:
    """Sides for `compare.in_turns`; none without PyTorch.

    Args:
        closing: ends the processes.
        names: of the sides, and what each is asked for.
        folder: of class folders.
        size: side of the images in pixels.
        batches: to measure.
        warm: batches before these.
    """
    if not is_installed():
        return {}

    def side(what):
        rival = TorchRival(what, folder, size)
        closing.callback(rival.close)
        return lambda: rival.rate(batches, warm)

    return {name: side(what) for name, what in names.items()}


# The process's side.


def _loader(folder: str, size: int, draft: bool):
    """A data set as PyTorch's tutorials have it, but without torchvision."""
    import torch

    files = [
        (entry.path, label)
        for label, name in enumerate(sorted(os.listdir(folder)))
        for entry in os.scandir(os.path.join(folder, name))
        if entry.is_file()
    ]

    class Images(torch.utils.data.Dataset):
        def __len__(self):
            return len(files)

        def __getitem__(self, index):
            path, label = files[index]
            with Image.open(path) as image:
                if draft:  # Lets libjpeg shrink while it decodes.
                    image.draft("RGB", (size, size))
                image = image.convert("RGB").resize(
                    (size, size), Image.Resampling.BILINEAR
                )
            return torch.from_numpy(np.array(image)), label

    return torch.utils.data.DataLoader(
        Images(), BATCH, shuffle=True, num_workers=WORKERS, drop_last=True
    )


def _endless(loader) -> Iterator:
    while True:
        yield from loader


def _course_cnn(size: int, classes: int):
    """`backbones.course_cnn` under the head that the course puts on it."""
    from torch import nn

    blocks, channels, side = [], 3, size
    for filters in (32, 64, 128, 128):
        blocks += [
            nn.Conv2d(channels, filters, 3),
            nn.ReLU(),
            nn.MaxPool2d(2),
        ]
        channels, side = filters, (side - 2) // 2
    return nn.Sequential(
        *blocks,
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(channels * side * side, 512),
        nn.ReLU(),
        nn.Linear(512, classes),
    )


def _trainer(folder: str, size: int) -> Callable:
    """The usual loop's body: a function of one batch."""
    import torch

    torch.manual_seed(0)
    model = _course_cnn(size, len(os.listdir(folder)))
    model.train()
    optimizer = torch.optim.Adam(model.parameters(), 1e-4)
    loss_of = torch.nn.CrossEntropyLoss()

    def step(batch):
        images, labels = batch
        pixels = images.permute(0, 3, 1, 2).float() / 255
        loss = loss_of(model(pixels), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def _ignore(batch) -> None:
    pass


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=(_LOAD, _LOAD_DRAFT, _TRAIN))
    parser.add_argument("folder")
    parser.add_argument("size", type=int)
    asked = parser.parse_args()
    loader = _loader(asked.folder, asked.size, asked.what == _LOAD_DRAFT)
    if asked.what == _TRAIN:
        use = _trainer(asked.folder, asked.size)
    else:
        use = _ignore
    for line in sys.stdin:
        batches, warm = map(int, line.split())
        iterator = _endless(loader)
        for _ in range(warm):
            use(next(iterator))
        began = time.perf_counter()
        for _ in range(batches):
            use(next(iterator))
        seconds = time.perf_counter() - began
        # Its workers end, so that the others have the machine to themselves.
        iterator.close()
        del iterator
        print(batches * BATCH / seconds, flush=True)


if __name__ == "__main__":
    main()
