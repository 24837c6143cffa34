import io
import time

from rich.console import Console

from framework.training.progress import ProgressObserver
from framework.training.trainer import Plan

FIGURES = {
    "epoch": 1,
    "step": 4,
    "seconds": 2.0,
    "images_per_second": 16.0,
    "input_wait": 0.25,
    "train": {"loss": 0.5, "accuracy": 0.75},
    "validation": {"loss": 0.25, "accuracy": 1.0},
}


WITHIN = {**FIGURES["train"], "images_per_second": 16.0, "input_wait": 0.001}


def drive(console, seconds):
    observer = ProgressObserver(
        console, Plan(30, 8, 2), 0, seconds_between_lines=seconds
    )
    for step in range(1, 5):
        observer.on_step(0, step, lambda: WITHIN)
    observer.on_epoch(FIGURES)
    observer.close()
    return console.file.getvalue()


def test_without_a_terminal_it_writes_whole_lines():
    text = drive(Console(file=io.StringIO(), width=40), 0.0)
    lines = text.splitlines()
    assert len(lines) == 5
    assert "epoch 1/2  step 1/4" in lines[0]
    assert "  16 images/s  loss 0.5000  accuracy 0.7500" in lines[0]
    assert lines[0].endswith("left")
    assert "validation accuracy 1.0000" in lines[-1]
    assert "16 images/s, 25% waiting for input" in lines[-1]


def test_it_does_not_flood_a_log():
    text = drive(Console(file=io.StringIO(), width=40), 60.0)
    assert len(text.splitlines()) == 1


def test_on_a_terminal_it_draws_a_bar():
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    observer = ProgressObserver(console, Plan(30, 8, 2))
    observer._interval = 0.0
    for step in range(1, 5):
        observer.on_step(0, step, lambda: WITHIN)
    observer._progress.refresh()
    observer.on_epoch(FIGURES)
    text = console.file.getvalue()
    assert "4/4" in text
    assert "loss 0.5000" in text
    assert observer._progress is None


def test_it_tells_how_long_the_first_update_took():
    console = Console(file=io.StringIO(), width=80)
    observer = ProgressObserver(console, Plan(30, 8, 2), 3, time.time() - 5)
    for step in (4, 5):
        observer.on_step(0, step, lambda: WITHIN)
    text = console.file.getvalue()
    assert text.count("First update 5.") == 1
    assert 5 <= observer.seconds_to_first_update < 6
