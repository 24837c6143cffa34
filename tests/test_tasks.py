"""The tasks about hands: which examples train and which judge."""

import numpy as np
import pytest

from framework import TASKS, UserError, array_source
from tasks import rendered_to_real, rock_paper_scissors


def pictures(count, class_names, test=0, name="arrays"):
    """Pictures that show their label, of the classes in this order."""
    labels = np.arange(count) % len(class_names)
    images = np.tile(labels[:, None, None, None], [1, 4, 4, 3])
    images, half = images.astype(np.uint8), count - test
    return array_source(
        images[:half],
        labels[:half],
        class_names,
        *((images[half:], labels[half:]) if test else (None, None)),
        name=name,
    )


@pytest.fixture
def rendered(monkeypatch):
    made = pictures(30, ("rock", "paper", "scissors"), 9, "rendered")
    sources = {"rendered_hands": lambda: made}
    monkeypatch.setattr(rendered_to_real, "SOURCES", sources)


@pytest.mark.parametrize(("test", "expected"), [(0, 12), (6, 6)])
def test_real_hands_are_tested_on_and_nothing_else(rendered, test, expected):
    real = pictures(12, ("scissors", "rock", "paper"), test, "photographs")
    data = TASKS["rendered_to_real"](lambda: real).load()
    assert data.class_names == ("rock", "paper", "scissors")
    assert {k: len(v) for k, v in data.splits.items()} == {
        "train": 21,
        "validation": 9,
        "test": expected,
    }
    # Each picture shows its number among the real source's classes.
    examples = data.splits["test"]
    for row, label in zip(examples.rows, examples.labels, strict=True):
        shown = int(examples.read(row)[0, 0, 0])
        assert data.class_names[label] == real.class_names[shown]
    assert "photographs" in data.source


def test_real_hands_of_other_classes_are_refused(rendered):
    real = pictures(12, ("rock", "paper", "lizard"))
    with pytest.raises(UserError, match="lizard; expected rock, paper"):
        TASKS["rendered_to_real"](lambda: real).load()


def test_seven_hands_show_each_class_once():
    sequences = [s for h in rock_paper_scissors.HANDS.values() for s in h]
    assert len(set(sequences)) == 21
    for shown in rock_paper_scissors.HANDS.values():
        for sequence, class_name in zip(
            shown, rock_paper_scissors.CLASS_NAMES, strict=True
        ):
            assert class_name in sequence


def test_what_is_trained_on_besides_judges_nothing(monkeypatch):
    real = pictures(60, ("rock", "paper", "scissors"), 12, "real")
    monkeypatch.setattr(rock_paper_scissors, "moving_hands", lambda: real)
    other = pictures(33, ("rock", "paper", "scissors"), 3, "others")
    other.splits["train"].ids[:] = [f"others/{i}" for i in range(30)]
    data = TASKS["rock_paper_scissors"](0.25, besides=lambda: other).load()
    sizes = {split: len(examples) for split, examples in data.splits.items()}
    assert sizes == {"train": 36 + 30, "validation": 12, "test": 12}
    ids = {k: set(e.ids) for k, e in data.splits.items()}
    assert sum("others" in i for i in ids["train"]) == 30
    assert not any("others" in i for i in ids["validation"] | ids["test"])
    assert not ids["train"] & ids["validation"]
    strange = pictures(9, ("paper", "rock", "scissors"))
    with pytest.raises(UserError, match="in this order"):
        TASKS["rock_paper_scissors"](besides=lambda: strange).load()
