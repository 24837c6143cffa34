"""Turns the name of a backbone into what is known of it without building it.

What is known stands in `facts.json`, which `python -m
framework.model.backbones.facts` writes anew, by building each of them; a slow
test compares. Of what can't be built without figures of the user's (KerasCV's
architectures, KerasHub's presets) nothing is written down.
"""

import dataclasses
import functools
import json
import pathlib
import sys

_FILE = pathlib.Path(__file__).with_name("facts.json")


@dataclasses.dataclass(frozen=True)
class Facts:
    """What a backbone is, as it is if nobody binds anything.

    Attributes:
        input_range: what pixels are turned into for it, in words: "-1..1".
        image_size: side of its images, in pixels.
        parameters: how many numbers it holds, without a head.
    """

    input_range: str
    image_size: int
    parameters: int


def facts(name: str) -> Facts | None:
    """What is known of the backbone called `name`; None if nothing is."""
    return _all().get(name)


@functools.cache
def _all() -> dict[str, Facts]:
    known = json.loads(_FILE.read_text("utf-8"))
    return {name: Facts(**values) for name, values in known.items()}


def measure(name: str) -> Facts | None:
    """Builds the backbone called `name`, without making its weights.

    Returns:
        None where it can't be built from its defaults.
    """
    import keras

    from framework.errors import UserError
    from framework.registry import BACKBONES

    keras.utils.clear_session()
    try:
        # Variables that are declared and never filled: some networks would
        # take gigabytes.
        with keras.StatelessScope(initialize_variables=False):
            built = BACKBONES.thing(name)(weights=None)
            return Facts(
                built.input_range,
                built.model.input_shape[1],
                built.model.count_params(),
            )
    except UserError:
        return None


def main() -> None:
    """Writes the file anew."""
    from framework.configuration import import_registered
    from framework.registry import BACKBONES

    import_registered()
    measured = {}
    for name in BACKBONES:
        found = measure(name)
        print(name, found or "can't be built without more", file=sys.stderr)
        if found:
            measured[name] = dataclasses.asdict(found)
    _FILE.write_text(json.dumps(measured, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
