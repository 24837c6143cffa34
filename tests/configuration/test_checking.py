"""What is wrong with a gin file is told at once, before anything is built."""

import random
import re

import pytest

import framework
from framework.configuration import Configuration, shipped_gin_files
from framework.configuration.files import open_gin_file
from framework.configuration.reading import OVERRIDES
from framework.errors import UserError

# What no shipped file has: scopes and macros, used as they should be.
DRESSED = """
include 'gin/smoke.gin'

train.epochs = None
train.phases = [@warm/Phase(), @tune/Phase()]
warm/Phase.epochs = 1
warm/Phase.freeze = 'all'
tune/Phase.epochs = %longer
tune/Phase.learning_rate = 0.001
tune/classifier.augmentation = %augmentation
longer = 2
augmentation = [@keras.RandomRotation(), @mild/RandomErase()]
keras.RandomRotation.factor = 0.1
mild/RandomErase.probability = %share
share = 0.2
"""
BINDING = re.compile(r"^(?:(?P<scope>\w+)/)?(?P<name>[\w.]+)\.(?P<p>\w+) = ")
REFERENCE = re.compile(r"@(?:(?P<scope>\w+)/)?(?P<name>[\w.]+)")
# What is known, and what no shipped file has a use for.
UNUSED = (
    "keras.SGD.momentum = 0.9",
    "keras.RandomShear.x_factor = 0.2",
    "one_cycle.peak = 0.01",
    "MixUp.alpha = 0.4",
    "nowhere/classifier.fuse = False",
    "nowhere/softmax_head.dropout = 0.1",
    "rate = 0.001",
    "TestTimeAugmentation.shifts = 2",
)


def written() -> dict[str, str]:
    texts = {}
    for name in shipped_gin_files():
        with open_gin_file(name) as file:
            texts[name.removeprefix("gin/")] = file.read()
    return {**texts, "dressed.gin": DRESSED}


def typo(word: str, chance: random.Random) -> str:
    """One slip of the finger."""
    while True:
        at = chance.randrange(len(word))
        slip = chance.choice(("drop", "double", "swap", "other"))
        made = {
            "drop": word[:at] + word[at + 1 :],
            "double": word[:at] + word[at] + word[at:],
            "swap": word[:at] + word[at : at + 2][::-1] + word[at + 2 :],
            "other": word[:at] + chance.choice("aeiourst") + word[at + 1 :],
        }[slip]
        if made != word and re.fullmatch(r"[A-Za-z_][\w]*", made):
            return made


def mistyped(found: re.Match, group: str, line: str, chance) -> tuple[str, str]:
    """The line with a slip in one name, and that name as it was."""
    name = found[group]
    library, dot, bare = name.rpartition(".")
    slip = f"{library}{dot}{typo(bare, chance)}"
    return line[: found.start(group)] + slip + line[found.end(group) :], name


def of_another_type(value: str) -> str | None:
    if re.fullmatch(r"-?[\d.]+", value):
        return f"'{value}'"
    if value.startswith(("'", "@")):
        return "True"
    return None


def mutations() -> list[tuple[str, str, int, str | None]]:
    """(file, its text, the line to be named, the right name of a typo)."""
    chance = random.Random(0)
    made: dict[str, list] = {}
    for file, text in written().items():
        lines = text.split("\n")

        def put(kind, number, line, right=None, file=file, lines=lines):
            changed = "\n".join([*lines[:number], line, *lines[number + 1 :]])
            made.setdefault(kind, []).append((file, changed, number + 1, right))

        for number, line in enumerate(lines):
            if line.startswith("#"):
                continue
            binding = BINDING.match(line)
            if binding:
                for kind, group in (("name", "name"), ("parameter", "p")):
                    put(kind, number, *mistyped(binding, group, line, chance))
                if binding["scope"]:
                    put(
                        "scope",
                        number,
                        *mistyped(binding, "scope", line, chance),
                    )
                value = line[binding.end() :]
                if other := of_another_type(value):
                    put("type", number, line[: binding.end()] + other)
                if value[-1] not in "[({,":
                    again = line[: binding.end()] + "None"
                    put("twice", number, f"{line}\n{again}")
                    made["twice"][-1] = (
                        *made["twice"][-1][:2],
                        number + 2,
                        None,
                    )
            for found in REFERENCE.finditer(line):
                put("reference", number, *mistyped(found, "name", line, chance))
                if found["scope"]:
                    put(
                        "scope", number, *mistyped(found, "scope", line, chance)
                    )
            for found in re.finditer(r"%(?P<name>\w+)", line):
                put("macro", number, *mistyped(found, "name", line, chance))
        for line in UNUSED:
            put("unused", len(lines) - 1, f"{line}\n")
    for each in made.values():
        chance.shuffle(each)
    share = {"name": 40, "parameter": 40, "reference": 40, "type": 30}
    share |= {"twice": 20, "unused": 20}
    chosen = [m for kind in made for m in made[kind][: share.get(kind, 30)]]
    assert all(len(made[kind]) >= least for kind, least in share.items())
    return chosen


def test_what_is_right_is_taken(in_tmp):
    for file, text in written().items():
        (in_tmp / file).write_text(text)
        Configuration(file)


def test_two_hundred_mistakes_are_told_with_their_line(in_tmp):
    tried, well_told, badly = mutations(), 0, []
    assert len(tried) >= 200
    for file, text, line, right in tried:
        (in_tmp / file).write_text(text)
        message = told(file=file)
        assert re.search(rf"{re.escape(file)}:{line}\b", message), (
            text.split("\n")[line - 1],
            message,
        )
        if right is not None:
            suggestion = re.search(r"Did you mean '%?([^']+)'", message)
            well = suggestion and suggestion[1] == right
            well_told += bool(well)
            badly += [] if well else [(text.split("\n")[line - 1], message)]
        (in_tmp / file).unlink()
    typos = sum(right is not None for *_, right in tried)
    assert typos >= 100
    assert well_told >= 0.9 * typos, badly


def told(*bindings: str, file: str = "gin/smoke.gin") -> str:
    with pytest.raises(UserError) as error:
        Configuration(file, bindings)
    return error.value.message


def test_all_mistakes_are_told_at_once(in_tmp):
    message = told("train.epochz = 3", "sigmoid_head.dropout = 2.0", "a = @b")
    assert "has 3 mistakes" in message
    assert "'epochs'" in message and "at least 0 and below 1" in message
    assert "nothing is called 'b'" in message
    message = told("train.epochz = 3", "a/softmax_head.dropout = 2.0", "b = 1")
    assert "has 4 mistakes" in message and "the scope 'a'" in message


@pytest.mark.parametrize(
    ("binding", "expected"),
    [
        ("keras.Adam.learning_rte = 0.1", "Did you mean 'learning_rate'?"),
        ("keras.RandomFlip.sead = 1", "Did you mean 'seed'?"),
        ("softmax_head.num_classes = 3", "what the framework gives to a head"),
        ("train.optimizer = @keras.Adam()", "without parentheses"),
        ("train.early_stopping = @EarlyStopping", "made with parentheses"),
        ("classifier.head = @tiny_cnn", "makes a Backbone; expected a refer"),
        ("classifier.head = @tiny_cnn", "Those are sigmoid_head, softmax_head"),
        ("train.optimizer = @keras.RandomFlip", "what makes an Optimizer"),
        ("train.phases = [@EarlyStopping()]", "a list of Phases"),
        ("train.task = @Tfds()", "expected a Task"),
        ("pipeline.resize = 'squish'", "Did you mean 'squash'?"),
        ("train.seed = -1", "at least 0 and below 4.29497e+09"),
        (
            "train.class_weights = {'circle': 'much'}",
            "a mapping, {'name': value} (each value a number, at least 0) or",
        ),
        ("softmax_head.hidden = [-64]", "whole numbers, each at least 1, in"),
        ("train.class_weights = {[1]: 2}", "before a colon is a list"),
        (
            "train.class_weights = {\n'a': 1,\n'b': 2,\n'a': 3\n}",
            "\"'a': 3\" can't be read: The key 'a' is there twice",
        ),
        ("train.class_weights = {1: 1, 1.0: 2}", "1.0 is there twice"),
        ("softmax_head.hidden = (3 4)", "a comma or a bracket is missing"),
        ("macro.value = 4", "nothing uses"),
        ("a/macro.valu = 3\ntrain.epochs = %a", "Did you mean 'value'"),
        ("train.epochs = %many", "Expected a line many = value."),
        ("classifier.augmentation = [@RandomHue()]", "is more than one"),
        ("train.epochs = %gin.REQUIRED", "train.epochs is left open"),
        ("train.epochs", "can't be read"),
        ("train.epochs = 'three", "can't be read"),
        ("train.epochs = [3", "can't be read"),
        ("a = [@b(\ntrain.seed = 3", "a bracket is not closed"),
        ("train.task = @shapes(seed=3)", "is given arguments: it has none"),
        ("a = [3\ntrain.seed = 3", "a comma or a bracket is missing"),
        ("a = {'b': 3\ntrain.seed = 3", "a comma or a bracket is missing"),
        ("train.epochs = [3\n\n", "'train.epochs = [3' can't be read"),
        ("softmax_head:\ntrain.seed = 3", "the block above it is empty"),
        ("train.optimizer = 3", "makes an Optimizer"),
        ("keras.Adam.learning_rate = -1", "expected a number, above 0"),
        ("keras.Adam.learning_rate = 1e999", "expected a number, above 0"),
        ("train.epochs = three", "neither a number, a text in quotes nor"),
        ("include 'gin/bse.gin'", "Did you mean 'gin/base.gin'"),
        ("include 'https://example.org/a.gin'", "import and run any code"),
        ("import tasks.shape", "No module named 'tasks.shape'"),
        ("from __gin__ import dynamic_registration", "nobody registered"),
    ],
)
def test_what_is_told(in_tmp, binding, expected):
    assert expected in told(binding)


def test_a_gin_file_of_the_web_is_refused(in_tmp):
    assert "run any code" in told(file="https://example.org/mine.gin")


def test_a_binding_may_be_unused_if_it_says_so(in_tmp):
    binding = "keras.SGD.momentum = 0.9"
    assert "nothing uses keras.SGD" in told(binding)
    Configuration("gin/smoke.gin", [f"{binding}  # may be unused, for later"])


@pytest.mark.parametrize(
    "text",
    [
        "# Of old.\n# All of it may be unused.\n\n"
        "keras.SGD.momentum = 0.9\nsome = 3\n",
        "keras.SGD:  # may be unused\n    momentum = 0.9\n    name = 'me'\n",
        "some = {\n    'a': 1,\n    'b': 2,\n}  # may be unused\n",
    ],
)
def test_what_a_mark_is_of(in_tmp, text):
    include = "include 'gin/smoke.gin'\n"
    (in_tmp / "file.gin").write_text(f"{text}{include}")
    Configuration("file.gin")
    (in_tmp / "file.gin").write_text(text.replace("be unused", "go") + include)
    with pytest.raises(UserError, match="nothing uses"):
        Configuration("file.gin")


@pytest.mark.parametrize(
    "text",
    [
        "# Where a value may be unused, it is marked.\nsome = 3\n",
        "train.seed = 1  # may be unused\nsome = 3\n",
        "some = '# may be unused'\n",
        "keras.SGD:  # may be unused\n    momentum = 0.9\nsome = 3\n",
        "train.seed = 1\n# All of it may be unused.\nsome = 3\n",
    ],
)
def test_what_is_no_mark(in_tmp, text):
    (in_tmp / "file.gin").write_text(f"include 'gin/smoke.gin'\n{text}")
    with pytest.raises(UserError, match="nothing uses %some"):
        Configuration("file.gin")


def test_only_utf_8_is_read(in_tmp):
    file = in_tmp / "file.gin"
    file.write_text("# Größe\ninclude 'gin/smoke.gin'\n", encoding="utf-8-sig")
    Configuration("file.gin")
    file.write_text("\n# Größe\ninclude 'gin/smoke.gin'\n", encoding="latin-1")
    with pytest.raises(UserError, match="gin:2: the byte 0xf6"):
        Configuration("file.gin")


def test_what_an_override_leaves_without_a_use_is_no_mistake(in_tmp):
    Configuration("gin/smoke.gin", ["train.optimizer = @keras.SGD"])
    (in_tmp / "mine.gin").write_text(
        "include 'gin/smoke.gin'\nclassifier.augmentation = []\n"
        "train.early_stopping = None\n"
    )
    Configuration("mine.gin")
    (in_tmp / "mine.gin").write_text(
        "include 'gin/smoke.gin'\nclassifier.augmentation = []\n"
        "keras.RandomFlip.seed = 3\n"
    )
    assert told(file="mine.gin").startswith("mine.gin:3: keras.RandomFlip.seed")


def test_twice_in_one_file_is_a_mistake_but_not_on_the_command_line(in_tmp):
    Configuration("gin/smoke.gin", ["train.epochs = 2", "train.epochs = 3"])
    (in_tmp / "mine.gin").write_text(
        "include 'gin/smoke.gin'\ntrain.epochs = 2\ntrain.seed = 1\n"
        "train:\n    epochs = 3\n"
    )
    asked = Configuration("gin/smoke.gin", ["train.seed = 2", "train.seed = 3"])
    (in_tmp / "config.gin").write_text(asked.asked)
    Configuration("config.gin")
    message = told(file="mine.gin")
    assert message.startswith("mine.gin:5: train.epochs is bound a second time")
    assert "after line 2 (2, now 3)" in message


def test_what_a_later_include_undoes(in_tmp):
    (in_tmp / "mine.gin").write_text(
        "train.epochs = 7\ntrain.seed = 0\ninclude 'gin/smoke.gin'\n"
    )
    message = told(file="mine.gin")
    assert message.startswith("mine.gin:1: train.epochs = 7 is undone by")
    assert "gin/smoke.gin:11" in message and "mistakes" not in message
    # What is bound below both holds, and nothing is lost.
    (in_tmp / "mine.gin").write_text(
        "include 'gin/base.gin'\ninclude 'gin/smoke.gin'\n"
        "include 'other.gin'\ntrain.seed = 7\n"
    )
    (in_tmp / "other.gin").write_text("train.seed = 5\n")
    Configuration("mine.gin")
    # By way of two files that both include a third.
    (in_tmp / "quick.gin").write_text(
        "include 'gin/base.gin'\ntrain.batch_size = 8\n"
    )
    (in_tmp / "mine.gin").write_text(
        "include 'quick.gin'\ninclude 'gin/smoke.gin'\n"
    )
    message = told(file="mine.gin")
    assert message.startswith("quick.gin:2: train.batch_size = 8 is undone by")
    assert "mine.gin:2" in message


def test_a_circle_of_macros_is_no_endless_search(in_tmp):
    circle = ("N = [%N]", "softmax_head.hidden = %N")
    assert "train.seed is 'a'" in told(*circle, "train.seed = 'a'")


def test_a_circle_of_includes(in_tmp):
    (in_tmp / "one.gin").write_text("include 'two.gin'\n")
    (in_tmp / "two.gin").write_text("include 'one.gin'\n")
    assert "includes itself" in told(file="one.gin")


def test_what_is_found_later_is_told_with_its_place(in_tmp):
    (in_tmp / "mine.gin").write_text(
        "include 'gin/smoke.gin'\ntrain.accumulation = 5\n"
    )
    with pytest.raises(UserError, match=r"mine\.gin:2"):
        framework.run("mine.gin", dry_run=True)


def test_what_a_task_names_in_its_code_has_a_use(in_tmp):
    Configuration("gin/folder.gin", ["ImageFolder.root = 'photos'"])
    Configuration("gin/rps_rendered.gin", ["rendered_hands.data_dir = 'here'"])
    assert "nothing uses ImageFolder" in told("ImageFolder.root = 'photos'")


# gin's own ways to write things, and a task that finds its source in a table.
FINE = (
    "classifier.image_size = %own.SIZE",
    "softmax_head:\n    dropout = 0.2\n    # Why.\n    labels = 'one_hot'",
    "classifier.augmentation = [@a/OwnNoise()]\na/OwnNoise.seed = 1",
    "a = %b\nb = 3\ntrain.epochs = %a",
    "a/macro.value = 3\ntrain.epochs = %a",
    "train.task = @s/gin.singleton()\ns/gin.singleton.constructor = @shapes",
    "train.class_weights = {\n  'circle': 2.0,\n  # Why.\n  'square': 1,\n}",
    "softmax_head.hidden = (64,)\npipeline.resize = 'sq' 'uash'",
    "Adam.beta_1 = 0.8\nframework.classifier.freeze = 'none'",
    "keras.Adam.learning_rate = 1\nsoftmax_head.dropout = 0",
    "doctor.likeness = 0.9\nprepare.max_side = 9\nbenchmark.seconds = 1",
    "train.task = @of_a_kind()\nImageFolder.root = 'photos'",
    "train.task = @OfAClass()\nImageFolder.root = 'photos'",
    "nested = {'a': {'a': 1}, 'b': {'a': 1}}  # may be unused",
    "classifier.augmentation = [@OwnLoud()]\nOwnLoud.loudness = 2",
    "classifier.augmentation = [@own_noise()]\nown_noise.ness = 2",
)


@pytest.fixture
def own_parts(in_tmp, monkeypatch):
    """Writes and imports parts of one's own; makes a file from lines."""
    (in_tmp / "own_parts.py").write_text(
        """
import gin, keras
from framework import AUGMENTATIONS, SOURCES, TASKS, Task

KINDS = {"files": "ImageFolder"}

def pick(kind):
    return SOURCES[KINDS[kind]]

@TASKS.register()
def of_a_kind(kind: str = "files") -> Task:
    return Task(pick(kind))

@TASKS.register()
class OfAClass(Task):
    def __init__(self):
        super().__init__(SOURCES["ImageFolder"])

@AUGMENTATIONS.register()
class OwnNoise(keras.layers.GaussianNoise):
    def __init__(self, amount: float = 0.1, **kwargs):
        super().__init__(stddev=amount, **kwargs)

@AUGMENTATIONS.register()
class OwnLoud(keras.layers.GaussianNoise):
    def __init__(self, **kwargs):
        super().__init__(kwargs.pop("loudness"), **kwargs)

@AUGMENTATIONS.register()
def own_noise(**kwargs) -> keras.layers.GaussianNoise:
    return OwnLoud(**{"loud" + name: each for name, each in kwargs.items()})

if not gin.config._CONSTANTS.matching_selectors("own.SIZE"):
    gin.constant("own.SIZE", 48)
    gin.constant("own.KIND", "files")
"""
    )
    monkeypatch.syspath_prepend(in_tmp)

    def make(lines):
        (in_tmp / "mine.gin").write_text(f"include 'gin/smoke.gin'\n{lines}\n")
        return Configuration("mine.gin", imports=["own_parts"])

    return make


@pytest.mark.parametrize("lines", FINE)
def test_no_false_alarm(own_parts, lines):
    own_parts(lines)


@pytest.mark.parametrize(
    "lines, message",
    [
        (
            "classifier.augmentation = [@OwnNoise()]\nOwnNoise.stdev = 1",
            "OwnNoise has no parameter 'stdev'. Did you mean 'stddev'",
        ),
        (
            "classifier.augmentation = [@OwnLoud()]\nOwnLoud.loudnes = 1",
            "Did you mean 'loudness'",
        ),
        ("classifier.image_size = %own.KIND", "image_size is 'files'"),
        (
            "train.class_weights = {'circle': %own.KIND}",
            "class_weights is {'circle': %own.KIND}",
        ),
    ],
)
def test_mistakes_with_ones_own(own_parts, lines, message):
    with pytest.raises(UserError, match=re.escape(message)):
        own_parts(lines)


def test_phases_are_scopes(in_tmp):
    phases = [
        "train.epochs = None",
        "train.phases = @fine_tune()",
        "tune/keras.RandomFlip.seed = 3",
        "head/keras.Adam.clipnorm = 1.0",
    ]
    Configuration("gin/smoke.gin", phases)
    message = told(*phases, "tuned/keras.Adam.clipnorm = 1.0")
    assert (
        "Did you mean 'tune'?" in message and "Scopes: head, tune." in message
    )


@pytest.mark.parametrize(
    "code, message",
    [
        ("def f(:", r"SyntaxError: .* \(.*mine_broken.py:2\)"),
        ("1 / 0", r"ZeroDivisionError: division by zero \(.*broken.py:2\)"),
        ("import sys; sys.exit(3)", r"SystemExit: 3 \(.*broken.py:2\)"),
        ("import no_such", r"No module named 'no_such' \(.*broken.py:2\)"),
        ("import json; json.loads('x')", r"JSONDecodeError.*broken.py:2\)"),
    ],
)
def test_a_plug_in_that_breaks_is_told_with_its_line(
    in_tmp, monkeypatch, code, message
):
    monkeypatch.syspath_prepend(in_tmp)
    (in_tmp / "mine_broken.py").write_text(f"# Mine.\n{code}\n")
    (in_tmp / "mine.gin").write_text(
        "import mine_broken\ninclude 'gin/smoke.gin'\n"
    )
    with pytest.raises(UserError, match=f"--import names .*{message}"):
        Configuration("gin/smoke.gin", imports=["mine_broken"])
    with pytest.raises(UserError, match=f"mine.gin:1: .*{message}") as told:
        Configuration("mine.gin")
    assert "In bindings string" not in str(told.value)


def test_what_python_may_give(in_tmp):
    (in_tmp / "mine.gin").write_text("include 'gin/smoke.gin'\n")
    lines = (f"train.epochs = {each}" for each in (3, 4))
    made = Configuration(in_tmp / "mine.gin", lines, None)
    assert "train.epochs = 4" in made.whole()
    for wrong in ("train.epochs = 3", [3], 3):
        with pytest.raises(UserError, match=r"list of texts, \['train"):
            Configuration("gin/smoke.gin", wrong)
    with pytest.raises(UserError, match="gin_file is None; expected the path"):
        Configuration(None)


@pytest.mark.parametrize(
    "lines",
    [
        "N = %N\nM = 1\ntrain.epochs = %N",
        "N = %M\nM = %N\ntrain.epochs = %N",
        "N = [%M]\nM = {'a': %N}\ntrain.epochs = %N",
    ],
)
def test_a_circle_of_macros_is_told(lines):
    assert "%N is made of itself (%N, " in told(lines)


@pytest.mark.parametrize("left_open", ["%gin.REQUIRED", "%REQUIRED"])
def test_what_is_left_open_is_bound_by_others(in_tmp, left_open):
    name = "softmax_head.label_smoothing"
    (in_tmp / "open.gin").write_text(f"{name} = {left_open}\n")
    include = "include 'gin/smoke.gin'\ninclude 'open.gin'\n"
    (in_tmp / "mine.gin").write_text(include)
    with pytest.raises(UserError) as told:
        Configuration("mine.gin")
    assert told.value.message == (
        f"open.gin:1: {name} is left open, to be bound by who includes this "
        "file, or with --gin_param."
    )
    Configuration("mine.gin", [f"{name} = 0.1"])


def test_what_is_left_open_is_told_once():
    message = told("train.phases = %gin.REQUIRED")
    assert "is left open" in message and "replace it" not in message


def test_each_mistake_with_an_unknown_name_is_told():
    message = told(
        "softmax_hed:\n  hidden = [64]\n  dropout = 0.5\n"
        "softmax_hed.dropout = 0.5\nx/softmax_hed.dropout = 0.5"
    )
    assert message.count("nothing is called 'softmax_hed'") == 3


def test_a_macro_is_no_constant(own_parts):
    with pytest.raises(UserError, match=r"%SIZE is the constant own\.SIZE al"):
        own_parts("SIZE = 3\ntrain.seed = %SIZE")


def test_phases_and_epochs_exclude_each_other(in_tmp):
    lines = "include 'gin/smoke.gin'\nph = {}\ntrain.phases = %ph\n"
    (in_tmp / "mine.gin").write_text(lines.format("[]"))
    Configuration("mine.gin")
    (in_tmp / "mine.gin").write_text(lines.format("@fine_tune()"))
    with pytest.raises(UserError, match=r"smoke\.gin:\d+: train\.epochs is b"):
        Configuration("mine.gin")
    Configuration("mine.gin", ["e = None", "train.epochs = %e"])


def test_windows_line_ends_are_none(in_tmp):
    text = "include 'gin/smoke.gin'\ntrain.epochs = 3\n"
    text += f"{OVERRIDES}\ntrain.epochs = 4\n"
    (in_tmp / "mine.gin").write_bytes(text.replace("\n", "\r\n").encode())
    Configuration("mine.gin")


def test_a_file_that_can_not_be_read_is_not_in_a_circle(in_tmp):
    (in_tmp / "bad.gin").write_text("# Größe", encoding="latin-1")
    (in_tmp / "other.gin").write_text("include 'bad.gin'\n")
    message = told("include 'bad.gin'\ninclude 'other.gin'")
    assert message.count("is no UTF-8") == 2
    assert "includes itself" not in message


def test_places_are_told_of_what_is_named(in_tmp):
    made = Configuration("gin/smoke.gin", ["n = 3", "train.epochs = %n"])
    assert (
        made._placed("/a/.cache can't be read.") == "/a/.cache can't be read."
    )
    assert made._placed("train.epochs is 3.").endswith(" (--gin_param)")
