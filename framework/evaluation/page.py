"""Turns a finished run into one HTML page: what it learned, saw and was fed."""

import dataclasses
import os
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from markupsafe import Markup

from framework.data.pictures import Pictures
from framework.data.source import IndexedExamples
from framework.errors import UserError
from framework.evaluation import fit, plots, seen
from framework.evaluation.fed import Fed
from framework.evaluation.predictions import Predictions
from framework.model import cost
from framework.pages import Room, brief, template
from framework.task import Data

NAME = "report.html"
# What of it could not be made, and why.
PROBLEMS = "report_problems.txt"
# Before these are encoded, which adds a third.
_MOST_PICTURE_BYTES = 9_000_000
# The matrix of more classes is no longer to be read.
MOST_IN_MATRIX = 40
_MOST_PAIRS, _MOST_IN_PAIR = 6, 4
_MOST_LOSSES = 12
_MOST_WRONG, _MOST_RIGHT = 5, 3
_MOST_NAMES = 200
# In this order, with what a reader is to know.
FIGURES = {
    "accuracy": ("Accuracy", "the share of examples classified rightly"),
    "top_5_accuracy": (
        "Top-5 accuracy",
        "the true class is among the five most probable",
    ),
    "loss": (
        "Loss",
        "cross-entropy: the mean of -log of the true class's probability",
    ),
    "macro_f1": ("Macro F1", "the mean over classes of their F1"),
    "sensitivity": ("Sensitivity", "the positive class's recall"),
    "specificity": ("Specificity", "the other class's recall"),
    "auc": ("AUC", "how well probabilities rank: 0.5 by chance, 1 at best"),
    "average_precision": (
        "Average precision",
        "the area under the curve of precision by recall",
    ),
    "brier_score": ("Brier score", "squared error of probabilities"),
    "expected_calibration_error": (
        "Calibration error",
        "the mean distance of confidence and accuracy; its interval leaves "
        "out what chance alone would show",
    ),
}


@dataclasses.dataclass(frozen=True, eq=False)
class Ran:
    """What a run hands over to its page.

    Attributes:
        path: of the run's directory.
        data: of the task, with all splits.
        summary: as `summary.json` has it.
        judged: the split that the final figures are of, and how to label it;
            None where there is none.
        predictions: of that split.
        epochs: as in `History.epochs`.
        comparable: as `fit.judge` takes it.
        resize: as `Pipeline.resize`.
        remarks: sentences that the run said of how it trains.
        operative: the gin configuration as used.
        environment: as `environment.json` has it.
        settings: what else to list in "How it ran", by name.
        load: loads the model as it was saved; None where there is none.
        probabilities: what reads its outputs, `Head.probabilities`.
        feed: makes what was fed; None where nothing is to be shown.
        throughput: sentences on what held training up; "" where it was not
            measured.
        folds: of a cross-validation by fold the directory's name and what
            `summary.json` has of it; else none.
    """

    path: str
    data: Data
    summary: Mapping[str, Any]
    judged: tuple[str, str] | None
    predictions: Predictions | None
    epochs: Sequence[Mapping[str, Any]] = ()
    comparable: bool = True
    resize: str = "squash"
    remarks: Sequence[str] = ()
    operative: str = ""
    environment: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    load: Callable[[], keras.Model] | None = None
    probabilities: Callable[[np.ndarray], np.ndarray] | None = None
    feed: Callable[[], Fed] | None = None
    throughput: str = ""
    folds: Sequence[Mapping[str, Any]] = ()


@dataclasses.dataclass(frozen=True)
class Mistake:
    """One example that was judged.

    Attributes:
        id: of the example.
        label: its class.
        predicted: what it was taken for.
        probability: of what it was taken for, 0..1.
        true_probability: of its class, 0..1.
        loss: the example's.
        picture: a small JPEG; None if it is lost.
    """

    id: str
    label: str
    predicted: str
    probability: float
    true_probability: float
    loss: float
    picture: bytes | None


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two classes, of which the one is taken for the other.

    Attributes:
        label: the true class.
        predicted: the other.
        count: how often that happened.
        examples: how many of the true class there are.
        mistakes: the surest of them.
    """

    label: str
    predicted: str
    count: int
    examples: int
    mistakes: tuple[Mistake, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Page:
    """A run's page.

    Attributes:
        html: some MB at most. It asks for nothing else, and can be written as
            UTF-8, whatever the names in it are.
        problems: accounts of what could not be made; the page says so in the
            place of each.
        pictures: some of those in it, by what they show, for TensorBoard: each
            a list of JPEGs or PNGs.
    """

    html: str
    problems: Sequence[str] = ()
    pictures: Mapping[str, Sequence[bytes]] = dataclasses.field(
        default_factory=dict
    )


def render(ran: Ran) -> Page:
    """Makes the page. Everything is computed in inference mode.

    What needs the model or its layers may fail, be it for what the user has
    added: the rest of the page is made then nevertheless.
    """
    tried = _Tried()
    model = tried("model", ran.load)
    size = 1 if model is None else model.input_shape[1]
    choice = _Choice(ran)
    pictures = Pictures(ran.data, choice.wanted, size)
    figures = ran.summary.get(choice.split or "", {})
    sight = tried("seen", model and (lambda: choice.look(pictures, model)))
    feed = tried("fed", ran.feed)
    count = tried("cost", model and (lambda: cost.operations(model)))
    path = os.path.join(os.path.dirname(__file__), "page.html.j2")
    html = template(path).render(
        ran=ran,
        data=ran.data,
        summary=ran.summary,
        label=ran.judged[1] if ran.judged else "",
        figures=figures,
        meanings=FIGURES,
        fit=_fit(ran),
        harder=fit.harder(ran.summary["validation"], ran.summary["test"])
        if "validation" in ran.summary and "test" in ran.summary
        else "",
        history=_history(ran),
        quality=_plots(ran),
        matrix=_matrix(ran.data.class_names, figures),
        pairs=choice.pairs(pictures),
        losses=choice.losses(pictures),
        seen=sight,
        fed=feed,
        balance=_balance(ran),
        how=_how(ran, model, count),
        failed=tried.failed,
        verdict=ran.throughput,
        phases=_phases(ran.epochs),
        room=Room(_MOST_PICTURE_BYTES),
        most_names=_MOST_NAMES,
    )
    return Page(html, tried.accounts, _pictures(sight, feed))


class _Tried:
    """Makes parts of a page, and keeps what went wrong.

    Attributes:
        failed: by part, why it could not be made.
        accounts: of that, for who is to mend it.
    """

    def __init__(self):
        self.failed: dict[str, str] = {}
        self.accounts: list[str] = []

    def __call__(self, part: str, make: Callable[[], Any] | None) -> Any:
        if make is None:
            return None
        try:
            return make()
        except Exception as error:
            lines = str(error).strip().splitlines()
            said = lines[0] if lines else type(error).__name__
            if not isinstance(error, UserError):
                said = f"{type(error).__name__}: {said}"
            self.failed[part] = said
            self.accounts.append("".join(traceback.format_exception(error)))
            return None


def _pictures(
    sight: seen.Seen | None, feed: Fed | None
) -> dict[str, list[bytes]]:
    made = {}
    if feed is not None:
        made["fed/before augmentation"] = [row.picture for row in feed.rows]
        made["fed/after augmentation"] = [
            row.drawn[0].picture for row in feed.rows if row.drawn
        ]
    if sight is not None:
        for example in sight.examples:
            kind = "right" if example.right else "wrong"
            made.setdefault(f"seen/Grad-CAM, {kind}", []).append(
                example.heats[0].grad_cam
            )
        for maps in sight.maps:
            for layer in maps.layers:
                name = f"seen/layers/{layer.stage.name}"
                made.setdefault(name, []).append(layer.picture)
        if sight.filters is not None:
            made["seen/filters"] = [sight.filters.picture]
        if sight.embeddings is not None:
            made["seen/alike"] = [sight.embeddings.picture]
    return {name: found for name, found in made.items() if found}


# What is shown of the examples that were judged.


class _Choice:
    """Which of the judged examples are shown where."""

    def __init__(self, ran: Ran):
        self._ran = ran
        self._names = ran.data.class_names
        self.split = ran.judged[0] if ran.judged else None
        self._pairs: list[tuple[int, int, np.ndarray]] = []
        self._losses = self._explained = self._mapped = np.array([], int)
        predictions = self._predictions = ran.predictions
        if predictions is None:
            return
        labels, predicted = predictions.labels, predictions.predicted
        by_loss = np.argsort(-predictions.losses, kind="stable")
        wrong = by_loss[(labels != predicted)[by_loss]]
        self._losses = by_loss[:_MOST_LOSSES]
        pairs = np.stack([labels[wrong], predicted[wrong]], 1)
        found, counts = np.unique(pairs, axis=0, return_counts=True)
        for place in np.argsort(-counts, kind="stable")[:_MOST_PAIRS]:
            (members,) = np.nonzero((pairs == found[place]).all(1))
            self._pairs.append((*found[place], wrong[members]))
        random = np.random.default_rng(0).permutation(len(labels))
        right = random[(labels == predicted)[random]]
        self._explained = np.concatenate(
            [
                wrong[seen.spread(labels[wrong], _MOST_WRONG)],
                right[seen.spread(labels[right], _MOST_RIGHT)],
            ]
        )
        self._mapped = random[: seen.MOST_ON_MAP]

    @property
    def wanted(self) -> set[tuple[str, str]]:
        """(split, id) of all that is shown."""
        parts = [self._losses, self._explained, self._mapped]
        parts += [members[:_MOST_IN_PAIR] for *_, members in self._pairs]
        return {
            (self.split, self._predictions.ids[place])
            for part in parts
            for place in part
        }

    def pairs(self, pictures: Pictures) -> list[Pair]:
        """The most frequent confusions."""
        return [
            Pair(
                self._names[label],
                self._names[predicted],
                len(members),
                int((self._predictions.labels == label).sum()),
                self._mistakes(members[:_MOST_IN_PAIR], pictures),
            )
            for label, predicted, members in self._pairs
        ]

    def losses(self, pictures: Pictures) -> tuple[Mistake, ...]:
        """The examples of the highest loss, right or wrong."""
        return self._mistakes(self._losses, pictures)

    def _mistakes(
        self, places: np.ndarray, pictures: Pictures
    ) -> tuple[Mistake, ...]:
        p = self._predictions
        if p is None:
            return ()
        return tuple(
            Mistake(
                p.ids[place],
                self._names[p.labels[place]],
                self._names[p.predicted[place]],
                float(p.probabilities[place].max()),
                float(p.probabilities[place, p.labels[place]]),
                float(p.losses[place]),
                pictures.thumbnail(self.split, p.ids[place]),
            )
            for place in places
        )

    def look(self, pictures: Pictures, model: keras.Model) -> seen.Seen | None:
        """What the model sees in some of them."""
        if self._predictions is None:
            return None
        pixels, places = self._read(pictures, self._explained)
        if not places:
            return None
        labels, ids = self._predictions.labels, self._predictions.ids
        many, mapped = self._read(pictures, self._mapped)
        return seen.look(
            model,
            self._ran.probabilities or seen.reader(model),
            self._names,
            pixels,
            labels[places],
            ids[places],
            many=(many, labels[mapped]),
        )

    def _read(
        self, pictures: Pictures, places: np.ndarray
    ) -> tuple[np.ndarray, list[int]]:
        ids = self._predictions.ids
        found = pictures.model_inputs(
            self.split, [ids[place] for place in places], self._ran.resize
        )
        there = [int(place) for place in places if ids[place] in found]
        return np.array([found[ids[place]] for place in there]), there


# In figures.


def _fit(ran: Ran) -> fit.Fit | None:
    if not ran.epochs:
        return None
    validation = ran.data.splits.get("validation", ())
    return fit.judge(
        ran.epochs,
        ran.summary["train"]["best_epoch"] - 1,
        len(validation),
        ran.data.num_classes,
        ran.comparable,
    )


def _history(ran: Ran) -> dict[str, Markup]:
    if not ran.epochs:
        return {}
    best = ran.summary["train"]["best_epoch"] - 1
    last = ran.epochs[-1]
    made = {}
    for name, figure in plots.panels(ran.epochs, best).items():
        if name == "learning rate":
            said = f"{last['learning_rate']:.3g} at the end"
        else:
            said = ", ".join(
                f"{split} {last[split][name]:.4f} at the end"
                for split in ("train", "validation")
                if split in last
            )
        made[name] = plots.svg(
            figure,
            f"{name} by epoch: {said}; the table below has all figures",
            f"history-{name.replace(' ', '-')}",
        )
    return made


def _plots(ran: Ran) -> dict[str, Markup]:
    if ran.predictions is None:
        return {}
    labels, scores = ran.predictions.labels, ran.predictions.probabilities
    if not np.isfinite(scores).all():
        return {}
    figures = ran.summary[ran.judged[0]]
    error = figures["expected_calibration_error"]
    made = {
        "calibration": plots.svg(
            plots.calibration(labels, scores),
            f"Accuracy by confidence; the calibration error is {error:.4f}",
            "calibration",
        ),
        "thresholds": None,
    }
    if scores.shape[1] == 2 and len(np.unique(labels)) == 2:
        figure, best = plots.thresholds(labels, scores[:, 1])
        made["thresholds"] = plots.svg(
            figure,
            f"Precision, recall and F1 by threshold; F1 is highest at "
            f"{best:.3f}",
            "thresholds",
        )
        made["best_threshold"] = best
    return made


def _matrix(
    class_names: Sequence[str], figures: Mapping[str, Any]
) -> list[tuple[str, list[tuple[int, float]]]]:
    """By true class: of each predicted one the count, and its share."""
    if not figures or len(class_names) > MOST_IN_MATRIX:
        return []
    return [
        (name, [(count, count / max(1, sum(row))) for count in row])
        for name, row in zip(class_names, figures["confusion"], strict=True)
    ]


def _balance(ran: Ran) -> list[tuple[str, dict[str, int | None]]]:
    """By class: how many examples each split has of it, None if unknown."""
    counts = {}
    for split, examples in ran.data.splits.items():
        if isinstance(examples, IndexedExamples):
            counts[split] = np.bincount(
                examples.labels, minlength=ran.data.num_classes
            )
    return [
        (
            name,
            {
                split: int(counts[split][label]) if split in counts else None
                for split in ran.data.splits
            },
        )
        for label, name in enumerate(ran.data.class_names)
    ]


def _phases(epochs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Of each phase its number, its epochs, and seconds of training."""
    made: dict[int, dict[str, Any]] = {}
    for epoch in epochs:
        number = epoch.get("phase", 1)
        phase = made.setdefault(
            number, {"number": number, "epochs": 0, "seconds": 0.0}
        )
        phase["epochs"] += 1
        phase["seconds"] += epoch.get("seconds", 0.0)
    return list(made.values())


def _how(
    ran: Ran, model: keras.Model | None, count: int | None
) -> dict[str, str]:
    """What is listed of how it ran, by name."""
    train = ran.summary.get("train", {})
    environment = ran.environment
    made = {}
    if train:
        made["Trained for"] = (
            f"{train['epochs']} epochs"
            + (", stopped early" if train["stopped_early"] else "")
            + f", {train['seconds']:.0f} s with validation"
        )
        made["Weights kept"] = f"of epoch {train['best_epoch']}"
        if train["images_per_second"]:
            made["Throughput"] = (
                f"{train['images_per_second']:.0f} images a second in training"
            )
        made["Replicas"] = (
            f"{train['replicas']}, in "
            f"{train['workers']} process{'es' * (train['workers'] > 1)}"
        )
        made["Taken up again"] = {0: "never", 1: "once"}.get(
            train["continued"], f"{train['continued']} times"
        )
    if model is not None:
        made["Parameters"] = f"{model.count_params():,}"
        if count is not None:
            large = count >= 1e9
            made["Operations a picture"] = (
                f"{count / (1e9 if large else 1e6):.3g} "
                f"{'billion' if large else 'million'} in floating point "
                "(a multiply-add counts as two)"
            )
        made["Pictures"] = (
            f"{model.input_shape[1]} by {model.input_shape[2]} pixels, "
            f"resized by {ran.resize}"
        )
    made |= {name: str(value) for name, value in ran.settings.items()}
    if environment:
        made["Machine"] = (
            f"{environment['platform']}, {environment['cpus']} processors"
        )
        made["Devices"] = brief(", ".join(environment["devices"]))
        made["Versions"] = ", ".join(
            f"{name} {version}"
            for name, version in {
                "python": environment["python"],
                **environment["versions"],
            }.items()
            if version
        )
        git = environment["git"]
        made["Git"] = (
            "no work tree"
            if git is None
            else git["commit"]
            + ("" if git["clean"] else ", with changes not committed")
        )
        made["Command"] = " ".join(environment["command"])
    if "weights_sha256" in ran.summary:
        made["SHA-256 of the weights"] = ran.summary["weights_sha256"]
    return made
