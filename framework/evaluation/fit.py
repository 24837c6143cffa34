"""Turns the history of a run into a verdict: does it overfit, underfit, or not?

It goes by the validation loss, which is the plain cross-entropy whatever was
trained with, and by the accuracies. Figures of training are means over an epoch
of updates, with augmentation and dropout; those of validation are of its end,
without. So it is no news that validation looks better than training, and no
rule here reads anything into that.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

# With fewer epochs there is no course to read.
_LEAST_EPOCHS = 3
# With fewer, hardly a bend is noise alone.
_FEW = 6
# Of the way from chance to certainty: less than that is hardly anything.
_BARELY = 0.3
# By how much the validation loss must have risen: in relation, and in nats, so
# that nobody is told of a rise from 0.001 to 0.002.
_RISE, _LEAST_RISE = 0.1, 0.02
# By how many standard errors to be no accident.
_SURE = 2.0
# By how many times the scatter: the least of a dozen is low by accident, too.
_SURE_RISE = 4.0
# The median of |a - 2 b + c| of normal numbers of standard deviation 1.
_BEND = 0.6745 * math.sqrt(6)
# Training is so much more accurate, and not by accident: it knows by heart.
_GAP = 0.1
# Accuracy is known to plus or minus this at best: no verdict.
_UNSURE = 0.1
# By so much of itself the loss falls an epoch in the last third: not done yet.
_FALLING = 0.05
# Above this accuracy more epochs are no advice.
_ENOUGH = 0.98


@dataclasses.dataclass(frozen=True)
class Fit:
    """How a model fits its data, as far as the history shows.

    Attributes:
        kind: "overfitting", "underfitting", "healthy", "noisy" (too noisy or
            too short to say) or "unknown" (nothing to validate on).
        epoch: from which epoch on, counted from 1; None unless it overfits.
        verdict: a sentence.
        evidence: sentences with the figures that it goes by.
        advice: sentences on what to try.
    """

    kind: str
    epoch: int | None
    verdict: str
    evidence: tuple[str, ...] = ()
    advice: tuple[str, ...] = ()


def judge(
    epochs: Sequence[Mapping[str, Any]],
    best_epoch: int,
    examples: int,
    num_classes: int,
    comparable: bool = True,
) -> Fit:
    """Judges a history.

    Args:
        epochs: as in `History.epochs`, at least one.
        best_epoch: index of the epoch whose weights were kept.
        examples: how many the validation split has; 0 where there is none.
        num_classes: how many classes there are.
        comparable: whether the training loss is of the validation loss's kind:
            not where labels are smoothed, pictures mixed, classes weighted or
            the loss is focal.
    """
    if not examples or "validation" not in epochs[0]:
        return _without_validation(epochs)
    history = _History(epochs, best_epoch, examples, num_classes, comparable)
    if len(epochs) < _LEAST_EPOCHS:
        return Fit(
            "noisy",
            None,
            f"Too short to say: {len(epochs)} "
            f"{'epoch' if len(epochs) == 1 else 'epochs'}.",
            history.evidence,
            ("Train longer (train.epochs) to see a course.",),
        )
    for rule in (_overfits, _hardly_learned, _is_noisy, _is_not_done):
        found = rule(history)
        if found is not None:
            return found
    return Fit(
        "healthy",
        None,
        "Healthy: validation keeps up with training, and "
        + (
            "still improved at the end."
            if history.improved_last
            else "has come to rest."
        ),
        history.evidence,
        (
            "To do better, change what it learns from: more pictures, a "
            "larger image (classifier.image_size), a larger backbone, or more "
            "of it trained (train.phases = @fine_tune()).",
        ),
    )


def harder(validation: Mapping[str, Any], test: Mapping[str, Any]) -> str:
    """Says so where the test split is surely harder than validation.

    A history can be healthy, and the model of no use to others than those it
    was chosen by.

    Args:
        validation: figures of `report.quality`.
        test: likewise.

    Returns:
        Sentences; "" where the intervals of the accuracies overlap.
    """
    low, high = validation["accuracy_interval"][0], test["accuracy_interval"][1]
    if high >= low:
        return ""
    return (
        f"The test split is harder than the validation split: accuracy "
        f"{test['accuracy']:.3f} against {validation['accuracy']:.3f}, and "
        "their intervals don't meet. Either the test pictures are of another "
        "kind (other people, cameras, places), and training pictures of that "
        "kind are what helps; or validation is too like what was trained on "
        "(frames of one film, near duplicates: --mode=doctor finds these, and "
        "groups keep them on one side)."
    )


class _History:
    """The series of a history, and how sure one can be of them."""

    def __init__(self, epochs, best_epoch, examples, num_classes, comparable):
        def series(split: str, name: str) -> np.ndarray:
            return np.array([e[split][name] for e in epochs], float)

        self.numbers = [e["epoch"] for e in epochs]
        self.best_epoch = best_epoch
        self.comparable = comparable
        self.train_loss = series("train", "loss")
        self.train_accuracy = series("train", "accuracy")
        self.loss = series("validation", "loss")
        self.accuracy = series("validation", "accuracy")
        # One bad epoch is none.
        self.smooth = np.array(
            [
                np.median(self.loss[max(0, i - 1) : i + 2])
                for i in range(len(epochs))
            ]
        )
        # Of the bends, which a steady fall has none of; half of them may be
        # anything. Of a few the least: a fall that slows down bends, too.
        bends = np.abs(np.diff(self.loss, 2)) if len(epochs) > 2 else [0.0]
        few = len(epochs) < _FEW
        self.scatter = float(min(bends) if few else np.median(bends)) / _BEND
        chance = 1 / num_classes
        self.barely = chance + _BARELY * (1 - chance)
        before = min(self.loss[:-1], default=self.loss[-1])
        by = before - self.loss[-1]
        self.improved_last = by > max(_LEAST_RISE, self.scatter)
        # Never 0: all of 30 right does not mean that all are.
        right = self.accuracy[best_epoch] * examples
        share = (right + 1) / (examples + 2)
        self.error = math.sqrt(share * (1 - share) / examples)
        kept = self.numbers[best_epoch]
        self.evidence = (
            f"Epoch {kept}, whose weights were kept: validation loss "
            f"{self.loss[best_epoch]:.3f}, accuracy "
            f"{self.accuracy[best_epoch]:.3f} (of {examples:,} examples, so "
            f"give or take {_SURE * self.error:.3f}); training loss "
            f"{self.train_loss[best_epoch]:.3f}, accuracy "
            f"{self.train_accuracy[best_epoch]:.3f}.",
        )


def _without_validation(epochs: Sequence[Mapping[str, Any]]) -> Fit:
    last = epochs[-1]["train"]
    return Fit(
        "unknown",
        None,
        "Nothing was held back to validate on, so that the history can't tell "
        "whether the model overfits.",
        (
            f"In the last epoch training had a loss of {last['loss']:.3f} and "
            f"an accuracy of {last['accuracy']:.3f}.",
        ),
        ("Bind the task's validation share to see.",),
    )


_AGAINST_OVERFITTING = (
    "More pictures are the best cure; next best is augmentation "
    "(classifier.augmentation, train.mixing = [@MixUp(), @CutMix()]).",
    "Less to learn by heart: more dropout (softmax_head.dropout, "
    "sigmoid_head.dropout), weight decay (keras.AdamW), more of a pretrained "
    "backbone frozen (classifier.freeze), a smaller backbone.",
)


def _overfits(h: _History) -> Fit | None:
    low = int(h.smooth.argmin())
    risen = h.smooth[-1] - h.smooth[low]
    after = len(h.smooth) - 1 - low
    sure = max(_RISE * h.smooth[low], _LEAST_RISE, _SURE_RISE * h.scatter)
    learned_on = (
        h.train_loss[-1] < h.train_loss[low]
        if h.comparable
        else h.train_accuracy[-1] > h.train_accuracy[low]
    )
    gap = h.train_accuracy[-1] - h.accuracy[-1]
    known_by_heart = gap > max(_GAP, 2 * _SURE * h.error)
    if after >= 2 and risen > sure and learned_on:
        start = low + 1
        kept_before = h.best_epoch <= low + 1
        verdict = (
            f"Overfitting from epoch {h.numbers[start]} on: the validation "
            f"loss rises while training still improves."
            + (
                f" It did no harm: the weights kept are those of epoch "
                f"{h.numbers[h.best_epoch]}."
                if kept_before
                else ""
            )
        )
        said = (
            f"the training loss went from {h.train_loss[low]:.3f} to "
            f"{h.train_loss[-1]:.3f}"
            if h.comparable
            else f"the training accuracy went from "
            f"{h.train_accuracy[low]:.3f} to {h.train_accuracy[-1]:.3f}"
        )
        evidence = (
            f"From epoch {h.numbers[low]} to {h.numbers[-1]} the validation "
            f"loss went from {h.loss[low]:.3f} to {h.loss[-1]:.3f}, and "
            f"{said}.",
        )
    elif known_by_heart:
        gaps = h.train_accuracy - h.accuracy
        # From when on it has not closed again.
        closed = np.flatnonzero(gaps <= max(_GAP, 2 * _SURE * h.error))
        start = int(closed[-1]) + 1 if len(closed) else 0
        verdict = (
            f"Overfitting from epoch {h.numbers[start]} on: what was trained "
            f"on is known {100 * gap:.0f} points better than what was not."
        )
        evidence = (
            f"At the end the accuracy is {h.train_accuracy[-1]:.3f} in "
            f"training, with augmentation and dropout, and "
            f"{h.accuracy[-1]:.3f} in validation.",
        )
    else:
        return None
    return Fit(
        "overfitting",
        h.numbers[start],
        verdict,
        (*evidence, *h.evidence),
        _AGAINST_OVERFITTING,
    )


def _hardly_learned(h: _History) -> Fit | None:
    tail = slice(-max(1, len(h.loss) // 3), None)
    if (
        h.train_accuracy[tail].max() >= h.barely
        or h.accuracy[tail].max() >= h.barely + _SURE * h.error
    ):
        return None
    return Fit(
        "underfitting",
        None,
        "Underfitting: what was trained on is hardly known better than by "
        "chance.",
        (
            f"At the end training has an accuracy of "
            f"{h.train_accuracy[-1]:.3f}; {h.barely:.3f} would be "
            f"{_BARELY:.0%} of the way from chance to certainty.",
            *h.evidence,
        ),
        (
            "Find a learning rate with --mode=lr_find: too low a one learns "
            "nothing, too high a one forgets.",
            "Let it learn more: less of the backbone frozen "
            "(classifier.freeze), pretrained weights, a larger backbone, less "
            "augmentation and dropout.",
            "Look at what it is fed (--mode=show_batch) and at the labels "
            "(--mode=doctor).",
        ),
    )


def _is_noisy(h: _History) -> Fit | None:
    span = h.smooth.max() - h.smooth.min()
    jumps = h.scatter > max(0.5 * span, 0.15 * h.loss.mean(), 0.05)
    if _SURE * h.error <= _UNSURE and not jumps:
        return None
    why = (
        "the validation loss jumps from epoch to epoch"
        if jumps
        else "there are too few examples to validate on"
    )
    return Fit(
        "noisy",
        None,
        f"Too noisy to say: {why}.",
        (
            f"From epoch to epoch the validation loss scatters by "
            f"{h.scatter:.3f} about its course, which spans {span:.3f}.",
            *h.evidence,
        ),
        (
            "Validate on more examples, or on all in turn (train.folds = 5).",
            "A lower learning rate, or one that falls (train.schedule = "
            "@warmup_cosine), and larger batches calm the course.",
        ),
    )


def _is_not_done(h: _History) -> Fit | None:
    back = max(1, len(h.loss) // 3)
    # Not the smoothed ones, whose ends lag behind.
    before, now = h.loss[-1 - back], h.loss[-1]
    is_falling = (
        int(h.loss.argmin()) >= len(h.loss) - 2
        and now < before * (1 - _FALLING) ** back
        and before - now > _SURE * h.scatter
    )
    if not is_falling or h.accuracy[-1] >= _ENOUGH:
        return None
    return Fit(
        "underfitting",
        None,
        "Underfitting, for want of time: the validation loss still falls at "
        "the end.",
        (
            f"Over the last {back} "
            f"{'epoch' if back == 1 else 'epochs'} it fell from {before:.3f} "
            f"to {now:.3f}.",
            *h.evidence,
        ),
        (
            "Train longer (train.epochs), or at a higher rate "
            "(--mode=lr_find suggests one).",
        ),
    )
