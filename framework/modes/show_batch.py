"""Turns a gin file into a page on what its model would be fed."""

import dataclasses
import os
from collections.abc import Callable

from rich.console import Console

from framework.console import say
from framework.errors import UserError
from framework.evaluation import fed, report
from framework.evaluation.fed import Fed
from framework.modes.loading import load_data
from framework.modes.recipe import Recipe, with_recipe
from framework.pages import Room, template
from framework.registry import MODES
from framework.run_directory import RunDirectory
from framework.task import Task
from framework.training.distribution import Distribution
from framework.training.state import TrainState

PAGE = "show_batch.html"
_ALL_DEVICES = Distribution()
_MOST_PICTURE_BYTES = 8_000_000
_TEMPLATE = os.path.join(os.path.dirname(fed.__file__), "show_batch.html.j2")


@dataclasses.dataclass(frozen=True)
class Shown:
    """A batch as it would be trained on.

    Attributes:
        fed: its pictures, before and after augmentation.
        directory: where the page is.
        page: its path.
    """

    fed: Fed
    directory: str
    page: str


@MODES.register(given=["locate", "console"])
@with_recipe
def show_batch(
    locate: Callable[[], RunDirectory],
    task: Task,
    recipe: Recipe,
    distribution: Distribution = _ALL_DEVICES,
    phase: int = 1,
    doctor: str | None = None,
    pictures: int = 16,
    console: Console | None = None,
) -> Shown:
    """Shows the first pictures of training before and after augmentation.

    What is bound of `train` holds here, too. Nothing is trained.

    Args:
        locate: finds the directory to write to.
        task: what the data is.
        recipe: of training.
        distribution: which devices train together.
        phase: whose batch to show, from 1.
        doctor: as in `train`.
        pictures: how many to show, at most.
        console: where to write.

    Raises:
        UserError: the data can't be had, the parts don't fit together, or no
            picture decodes.
    """
    console = console or Console()
    recipe.check_phase("show_batch.phase", phase)
    if pictures < 1:
        raise UserError(
            f"show_batch.pictures is {pictures}; expected a whole number, at "
            "least 1."
        )
    world = distribution.make()
    data = load_data(task, console, doctor)
    say(console, report.describe(data))
    with recipe.on(data, world, TrainState(phase=phase - 1)) as setup:
        for line in setup.opening:
            say(console, line)
        shown = recipe.feed(setup, data, pictures)
        size = setup.built.image_size
        title = setup.title
    if not shown.rows:
        raise UserError(
            "None of the first pictures of training decodes. Expected JPEG, "
            "PNG, GIF, BMP or WebP images; --mode=doctor finds what is not."
        )
    run = locate()
    run.create()
    run.write(
        PAGE,
        template(_TEMPLATE).render(
            data=data,
            fed=shown,
            title=title,
            size=size,
            resize=recipe.pipeline.resize,
            room=Room(_MOST_PICTURE_BYTES),
        ),
    )
    run.finish({"data": {"source": data.source, "stand_in": data.stand_in}})
    say(console, f"Page: {run.file(PAGE)}")
    return Shown(shown, run.path, run.file(PAGE))
