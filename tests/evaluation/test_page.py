"""The report of a run: its figures, its pictures, its names."""

import base64
import csv
import html.parser
import json
import pathlib
import re

import keras
import numpy as np
import pytest
import sklearn.metrics
import tensorflow as tf

import framework
from framework.evaluation import fit, page
from framework.modes.train import Result
from framework.registry import AUGMENTATIONS, TASKS

pytestmark = pytest.mark.page


class Tables(html.parser.HTMLParser):
    """The cells of all tables, as text; and all text."""

    def __init__(self, text: str):
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.text: list[str] = []
        self._cell: list[str] | None = None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("th", "td"):
            self._cell = []

    def handle_endtag(self, tag):
        if tag in ("th", "td"):
            self.tables[-1][-1].append("".join(self._cell).strip())
            self._cell = None

    def handle_data(self, data):
        self.text.append(data)
        if self._cell is not None:
            self._cell.append(data)

    def with_head(self, *head: str) -> list[list[str]]:
        """The rows below the head that begins so."""
        (found,) = (
            rows for rows in self.tables if rows[0][: len(head)] == [*head]
        )
        return found[1:]


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """A run of smoke.gin, and its page."""
    return made(tmp_path_factory.mktemp("three"), ["train.epochs = 3"])


def made(place, bindings, gin_file="gin/smoke.gin") -> tuple[Result, Tables]:
    result = framework.run(gin_file, bindings, workdir=str(place / "run"))
    text = (place / "run" / "report.html").read_text()
    return result, Tables(text)


def stored(result):
    """Labels and probabilities from predictions.csv."""
    with open(f"{result.directory}/predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    names = result.class_names
    labels = np.array([names.index(row["label"]) for row in rows])
    scores = np.array([[float(row[f"p({n})"]) for n in names] for row in rows])
    return labels, scores


def test_every_figure_is_that_of_the_stored_predictions(three):
    result, found = three
    labels, scores = stored(result)
    predicted = scores.argmax(-1)
    metrics = sklearn.metrics
    precision, recall, f1, support = metrics.precision_recall_fscore_support(
        labels, predicted
    )
    aucs = [
        metrics.roc_auc_score(labels == label, scores[:, label])
        for label in range(3)
    ]
    whole = {row[0]: row[1] for row in found.with_head("Figure", "Value")}
    one_hot = np.eye(3)[labels]
    confidence = scores.max(-1)
    right = predicted == labels
    bins = np.minimum(np.ceil(confidence * 15).astype(int), 15)
    expected = {
        "Accuracy": metrics.accuracy_score(labels, predicted),
        "Loss": -np.log(scores[np.arange(len(labels)), labels]).mean(),
        "Macro F1": metrics.f1_score(labels, predicted, average="macro"),
        "AUC": np.mean(aucs),
        "Average precision": metrics.average_precision_score(
            one_hot, scores, average="macro"
        ),
        "Brier score": ((scores - one_hot) ** 2).sum(-1).mean(),
        "Calibration error": sum(
            abs((confidence - right)[bins == b].sum()) for b in range(1, 16)
        )
        / len(labels),
    }
    assert set(whole) == set(expected)
    for name, value in expected.items():
        assert float(whole[name]) == pytest.approx(value, abs=6e-5), name

    rows = found.with_head("Class", "Examples")
    by_class = zip(
        result.class_names, support, precision, recall, f1, aucs, strict=True
    )
    for row, (name, count, *figures) in zip(rows, by_class, strict=True):
        assert row[:2] == [name, str(count)]
        assert [*map(float, row[2:])] == pytest.approx(figures, abs=6e-5)

    matrix = found.with_head("", *result.class_names)
    counted = [[int(cell) for cell in row[1:]] for row in matrix]
    assert (counted == metrics.confusion_matrix(labels, predicted)).all()


def test_the_figures_of_two_classes(tmp_path, some_pictures):
    result, found = made(
        tmp_path,
        [
            f"ImageFolder.root = {str(some_pictures)!r}",
            "classifier.backbone = @tiny_cnn",
            "classifier.image_size = 32",
            "classifier.freeze = 'none'",
            "classifier.head = @sigmoid_head",
            "train.feature_views = None",
            "train.epochs = 1",
            "train.batch_size = 8",
            "train.test_time_augmentation = @TestTimeAugmentation()",
        ],
        "gin/folder.gin",
    )
    labels, scores = stored(result)
    rows = found.with_head("Figure", "Value")
    assert found.tables[1][0][3] == "Mean of 2 views"
    whole = {row[0]: float(row[1]) for row in rows}
    confusion = sklearn.metrics.confusion_matrix(labels, scores.argmax(-1))
    (tn, fp), (fn, tp) = confusion
    assert whole["Sensitivity"] == pytest.approx(tp / (tp + fn), abs=6e-5)
    assert whole["Specificity"] == pytest.approx(tn / (tn + fp), abs=6e-5)
    assert whole["AUC"] == pytest.approx(
        sklearn.metrics.roc_auc_score(labels, scores[:, 1]), abs=6e-5
    )
    text = " ".join(found.text)
    best = float(re.search(r"highest at a threshold of (\d\.\d+)\.", text)[1])
    f1 = [
        sklearn.metrics.f1_score(labels, scores[:, 1] >= at)
        for at in scores[:, 1]
    ]
    # As it is printed.
    there = sklearn.metrics.f1_score(labels, scores[:, 1] >= best)
    assert there == max(f1)


def test_history_and_how_it_ran(three):
    result, found = three
    rows = found.with_head("Epoch", "Phase")
    for row, epoch in zip(rows, result.history.epochs, strict=True):
        assert int(row[0].split()[0]) == epoch["epoch"]
        figures = [
            epoch[split][name]
            for split in ("train", "validation")
            for name in ("loss", "accuracy")
        ]
        assert [*map(float, row[2:6])] == pytest.approx(figures, abs=6e-5)
    kept = [row[0] for row in rows if "kept" in row[0]]
    assert kept == [f"{result.history.best_epoch + 1} kept"]
    how = {row[0]: row[1] for row in found.tables[-1]}
    assert how["SHA-256 of the weights"] == result.summary["weights_sha256"]
    counted = sum(w.shape.num_elements() for w in result.model.weights)
    assert int(how["Parameters"].replace(",", "")) == counted
    assert how["Seed"] == "0"
    assert keras.__version__ in how["Versions"]
    operative = (pathlib.Path(result.directory) / "operative.gin").read_text()
    text = "".join(found.text)
    assert all(line in text for line in operative.splitlines())
    judged = fit.judge(
        result.history.epochs,
        result.history.best_epoch,
        result.summary["validation"]["examples"],
        3,
    )
    assert judged.verdict in text
    assert all(line in text for line in (*judged.evidence, *judged.advice))


def test_examples_by_class_and_split(three):
    result, found = three
    *rows, last = found.with_head("Class", "train", "validation", "test")
    splits = result.summary["data"]["examples"]
    assert [*map(int, last[1:])] == [*splits.values()]
    totals = [sum(int(row[n]) for row in rows) for n in (1, 2, 3)]
    assert totals == [*splits.values()]


def test_pictures_are_those_of_their_examples(three):
    """A wrong example's card has its picture, its classes and its loss."""
    result, _ = three
    text = (pathlib.Path(result.directory) / "report.html").read_text()
    cards = text.split('<h3 class="wide-gap">Highest losses</h3>')[1]
    card = cards.split('<li class="card">')[1]
    with open(f"{result.directory}/predictions.csv", newline="") as file:
        worst = max(csv.DictReader(file), key=lambda r: float(r["loss"]))
    assert f'<bdi dir="ltr">{worst["id"]}</bdi>' in card
    assert f"<bdi>{worst['label']}</bdi>" in card
    assert f"<strong><bdi>{worst['predicted']}</bdi></strong>" in card
    assert f"loss {float(worst['loss']):.3f}" in card
    data = re.search(r'src="data:image/jpeg;base64,([^"]+)"', card)[1]
    pixels = tf.io.decode_jpeg(base64.b64decode(data)).numpy()
    test = TASKS["shapes"]().load(lambda *_: None).splits["test"]
    distances = {
        test.ids[place]: abs(
            test.read(tf.constant(row)).numpy() - pixels.astype(int)
        ).mean()
        for place, row in enumerate(test.rows)
    }
    assert min(distances, key=distances.get) == worst["id"]


def test_a_page_that_fails_costs_no_run(in_tmp, monkeypatch):
    def broken(ran):
        raise RuntimeError("no pencil")

    monkeypatch.setattr(page, "render", broken)
    result = framework.run("gin/smoke.gin", ["train.epochs = 1"])
    place = pathlib.Path(result.directory)
    assert json.loads((place / "summary.json").read_text())
    assert not (place / "report.html").exists()
    problems = (place / "report_problems.txt").read_text()
    assert "RuntimeError: no pencil" in problems and "Traceback" in problems


class Uncopied(keras.layers.Layer):
    """Augmentation that forgets how it was made."""

    def __init__(self, amount, **kwargs):
        super().__init__(**kwargs)
        self.amount = amount

    def call(self, inputs, training=False):
        return inputs * self.amount if training else inputs


AUGMENTATIONS.adopt("tests", Uncopied)


@pytest.mark.parametrize(
    "bindings, absent, said",
    [
        (["keras.Adam.learning_rate = 1e20"], "What it sees", "has diverged"),
        (
            [
                "classifier.augmentation = [@tests.Uncopied()]",
                "tests.Uncopied.amount = 0.9",
            ],
            "model",
            "Uncopied",
        ),
    ],
)
def test_what_fails_is_named_in_its_place(tmp_path, bindings, absent, said):
    """The rest of the page is there."""
    result, found = made(tmp_path, ["train.epochs = 1", *bindings])
    text = " ".join(found.text)
    assert "could not be made" in text and said in text
    assert found.with_head("Figure", "Value")
    assert found.with_head("Epoch", "Phase")
    problems = pathlib.Path(result.directory, "report_problems.txt")
    assert "Traceback" in problems.read_text()


@pytest.mark.parametrize(
    "bindings",
    [
        ["train.phases = @fine_tune()", "train.epochs = None"],
        pytest.param(
            ["train.mixing = [@MixUp()]", "train.class_weights = 'balanced'"],
            marks=pytest.mark.slow,
        ),
        pytest.param(
            [
                *("train.feature_views = 2", "classifier.freeze = 'all'"),
                *("pipeline.resize = 'pad'", "train.sampling = 'balanced'"),
            ],
            marks=pytest.mark.slow,
        ),
    ],
)
def test_runs_of_all_kinds_have_a_whole_page(tmp_path, bindings):
    result, found = made(
        tmp_path,
        ["train.epochs = 2", "shapes.examples = 150", *bindings],
    )
    assert not pathlib.Path(result.directory, "report_problems.txt").exists()
    text = " ".join(found.text)
    for part in ("Where it looked", "A batch before", "How it ran"):
        assert part in text
    assert "could not be made" not in text


@pytest.mark.slow
def test_without_validation_and_test_there_is_a_page(tmp_path, some_pictures):
    result, found = made(
        tmp_path,
        [
            f"ImageFolder.root = {str(some_pictures)!r}",
            "image_folder.validation = 0.0",
            "train.early_stopping = None",
            "classifier.backbone = @tiny_cnn",
            "classifier.image_size = 32",
            "classifier.freeze = 'none'",
            "train.feature_views = None",
            "train.epochs = 1",
            "train.batch_size = 8",
        ],
        "gin/folder.gin",
    )
    assert not pathlib.Path(result.directory, "report_problems.txt").exists()
    text = " ".join(found.text)
    assert "judged by nothing that was held back" in text
    assert "Nothing was held back to validate on" in text
    assert "A batch before" in text and "Quality" not in text


def test_no_page_where_none_is_wanted(in_tmp):
    result = framework.run(
        "gin/smoke.gin", ["train.epochs = 1", "train.report_page = False"]
    )
    assert not (pathlib.Path(result.directory) / "report.html").exists()


@pytest.mark.slow
def test_a_cross_validation_has_a_page_with_its_folds(tmp_path):
    result, found = made(
        tmp_path,
        [
            "train.folds = 2",
            "train.epochs = 1",
            "shapes.examples = 100",
        ],
    )
    rows = found.with_head("Fold", "Accuracy")
    for row, fold in zip(rows, result.summary["folds"], strict=True):
        assert row[0] == fold["directory"]
        assert float(row[1]) == pytest.approx(fold["test"], abs=6e-5)
        assert (tmp_path / "run" / row[0] / "report.html").exists()


def test_tensorboard_has_the_final_figures_and_the_pictures(three):
    result, _ = three
    place = pathlib.Path(result.directory) / "tensorboard"
    found = {}
    for file in place.rglob("events*"):
        for event in tf.compat.v1.train.summary_iterator(str(file)):
            for value in event.summary.value:
                name = f"{file.parent.relative_to(place)}:{value.tag}"
                found[name] = tf.make_ndarray(value.tensor)
    assert found["final/test:accuracy"] == pytest.approx(
        result.summary["test"]["accuracy"]
    )
    width, height, *images = found["pictures:fed/before augmentation"]
    assert (int(width), int(height), len(images)) == (224, 224, 8)
    assert "pictures:seen/Grad-CAM, wrong" in found
    assert "pictures:seen/alike" in found


def test_a_class_called_like_a_script_is_text(tmp_path, some_pictures):
    """Of a table labels may be anything."""
    name = "<script>alert(1)</script>"
    rows = [
        f"{path},{name if path.parent.name == 'cat' else 'dog'}"
        for path in sorted(some_pictures.glob("*/*.png"))
    ]
    table = tmp_path / "list.csv"
    table.write_text("\n".join(["path,label", *rows]) + "\n")
    result, found = made(
        tmp_path,
        [
            f"Manifest.path = {str(table)!r}",
            "classifier.backbone = @tiny_cnn",
            "classifier.image_size = 32",
            "classifier.freeze = 'none'",
            "train.feature_views = None",
            "train.epochs = 1",
            "train.batch_size = 8",
        ],
        "gin/manifest.gin",
    )
    assert name in result.class_names
    rows = found.with_head("Class", "Examples")
    assert name in [row[0] for row in rows]
    text = pathlib.Path(result.directory, "report.html").read_text()
    assert "alert(1)" in text and name not in text
