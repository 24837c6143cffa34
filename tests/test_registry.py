import dataclasses
import pathlib
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import gin
import keras
import pytest

from framework.configuration import fitting
from framework.configuration.reading import Place, Reference
from framework.errors import UserError
from framework.ranges import Count
from framework.registry import (
    AUGMENTATIONS,
    BACKBONES,
    Registry,
    fits,
    nearest,
)


@pytest.fixture
def registry():
    made = Registry("gadget")
    yield made
    Registry.instances.remove(made)


def test_a_registered_name_is_a_gin_name(registry):
    @registry.register()
    def gadget_with_a_knob(knob=1):
        return knob

    gin.parse_config("gadget_with_a_knob.knob = 5")
    assert registry["gadget_with_a_knob"]() == 5
    assert gadget_with_a_knob() == 1, "a direct call ignores bindings"
    assert "gadget_with_a_knob" in registry
    assert list(registry) == ["gadget_with_a_knob"]


def test_duplicates_raise_and_name_both(registry):
    registry.register("gadget_twice")(twice)
    with pytest.raises(UserError, match=r"registered twice: by .*twice and"):
        registry.register("gadget_twice")(lambda: None)


def test_a_name_of_another_kind_is_refused(registry):
    with pytest.raises(UserError, match="already a gin name"):
        registry.register("efficientnet_lite0")(lambda: None)


def test_unknown_names_list_the_nearest():
    with pytest.raises(UserError, match=r"Did you mean 'tiny_cnn'"):
        BACKBONES["tinycnn"]
    with pytest.raises(UserError, match=r"Known: .*course_cnn"):
        BACKBONES["zzz"]
    assert nearest("zzz", ["abc"]) == ""


def twice():
    pass


def test_a_notebook_cell_may_define_its_thing_again(registry):
    def define(value):
        def gadget_of_a_notebook():
            return value

        return registry.register()(gadget_of_a_notebook)

    define(1)
    define(2)
    assert registry["gadget_of_a_notebook"]() == 2


def test_values_are_checked_against_type_hints(registry):
    @registry.register(given=["filled_in"])
    def gadget_with_hints(
        filled_in: int,
        count: int = 1,
        share: float | None = None,
        names: Sequence[str] = (),
        make: Callable[[], int] = int,
    ):
        return filled_in, count, share, names

    make = registry["gadget_with_hints"]
    gin.parse_config("gadget_with_hints.share = 1")
    assert make(5) == (5, 1, 1, ())
    for binding, message in (
        ("count = 1.5", r"count is 1\.5 \(float\); expected a whole number\."),
        ("count = True", "count is True"),
        ("share = 'x'", "expected a number or None"),
        ("names = 'ab'", "expected a list of texts, in brackets"),
        ("names = [1]", "expected a list"),
        ("make = 3", "without parentheses"),
    ):
        gin.clear_config()
        gin.parse_config(f"gadget_with_hints.{binding}")
        with pytest.raises(UserError, match=message):
            make(5)
    with pytest.raises(ValueError, match="filled_in"):
        gin.parse_config("gadget_with_hints.filled_in = 2")
    assert "filled_in" not in registry.parameters("gadget_with_hints")


class Names(list):
    pass


class Protocolled(typing.Protocol):
    size: int


@pytest.mark.parametrize(
    "value, hint, expected",
    [
        (1, Literal[1.0, 2.0], True),
        (True, Literal[1, 2], False),
        (3, Literal[1.0, 2.0], False),
        ((1, 2), list, True),
        ([1, 2], list[int], True),
        ([1, "a"], tuple[int, str], True),
        ([1, 2], tuple[int, str], False),
        ([1], tuple[int, str], False),
        ((1, 2, 3), tuple[int, ...], True),
        ((1, "a"), tuple[int, ...], False),
        ("text", object, True),
        ("a/b", pathlib.Path, False),
        ({"a": 1}, dict[str, int], True),
        ({"a": "b"}, Mapping[str, int], False),
        ({"a": 1}, typing.Dict, True),  # noqa: UP006
        (3, Protocolled, True),
        (10**400, Count, False),
        (10**300, Count, True),
    ],
)
def test_hints(value, hint, expected):
    assert fits(value, hint) is expected
    # References and macros may stand in a value as written.
    assert fitting.fits(value, hint) is expected


def test_hints_of_references(registry):
    @registry.register()
    def gadget_of_names() -> Names:
        return Names()

    made = Reference("", "gadget_of_names", True, Place("", 1))
    itself = dataclasses.replace(made, is_made=False)
    for value, hint, expected in (
        (made, Sequence[str], True),
        (made, list, True),
        (made, object, True),
        (itself, object, True),
        (itself, Sequence[str], False),
        ([made], Sequence[int], False),
        ({"a": made}, Mapping[str, list], True),
        ({"a": made}, Mapping[str, int], False),
        (made, int | None, False),
    ):
        assert fitting.fits(value, hint) is expected, (value, hint)


def test_adopted_things_stay_what_they_are():
    gin.parse_config("keras.RandomRotation.factor = 0.25")
    layer = AUGMENTATIONS["keras.RandomRotation"](fill_mode="nearest")
    assert type(layer) is keras.layers.RandomRotation
    assert layer.get_config()["factor"] == (-0.25, 0.25)
    again = keras.layers.RandomRotation.from_config(layer.get_config())
    assert again.get_config() == layer.get_config()


def test_names_that_two_libraries_share_are_told_apart():
    ours = AUGMENTATIONS["keras.RandomShear"]
    theirs = AUGMENTATIONS["keras_cv.RandomShear"]
    assert ours is not theirs
    with pytest.raises(KeyError, match="Ambiguous"):
        gin.parse_config("x/RandomShear.seed = 1")
