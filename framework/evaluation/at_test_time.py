"""Turns pictures to be judged into several views of each, to be averaged over.

This is the one sound reading of "augment the test set, too": every example is
still judged once, by the mean of what a model says of views of it. Nothing
here knows of training: whoever predicts may ask for it.
"""

import dataclasses
import functools
import itertools
import random
from collections.abc import Callable, Iterator, Sequence

import keras
import numpy as np
import tensorflow as tf

from framework.errors import UserError
from framework.model.affine import fuse, parts
from framework.model.augmentation import augment_one_by_one
from framework.model.classifier import Classifier
from framework.registry import PARTS

# Between the positions of one random view and the next: more than a split has
# examples.
FAR = 2**40

# From uint8 pictures [B, S, S, 3] and positions int64 [B] to one view of each.
_Maker = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


@PARTS.register()
@dataclasses.dataclass(frozen=True)
class TestTimeAugmentation:
    """Which views of a picture a model is asked about.

    Probabilities are averaged, by the arithmetic mean, as in Krizhevsky et
    al. 2012, https://dl.acm.org/doi/10.1145/3065386, section 4.1, which takes
    five crops and their mirror images: here `shifts = 16`. The picture as it
    is, is always among the views.

    Attributes:
        flip: mirror images beside the picture, its shifts and its zooms.
        shifts: so many pixels along both axes, towards each of the four
            corners; pixels at the edge fill what is uncovered. 0 for none.
        zooms: of each, the middle, so large a share of the side, resized to
            the whole (bilinearly); 0.9 shows a picture a little larger.
        views: so many random ones by the classifier's own augmentation
            layers, wherever these run in training. What is drawn is a
            function of the seed, the view and the example's position in its
            split, and of nothing else.
        seed: of the random views.

    Raises:
        UserError: a value makes no sense, or nothing is asked for.
    """

    flip: bool = True
    shifts: int = 0
    zooms: Sequence[float] = ()
    views: int = 0
    seed: int = 0

    def __post_init__(self):
        for name in ("shifts", "views", "seed"):
            if getattr(self, name) < 0:
                raise UserError(
                    f"TestTimeAugmentation.{name} is {getattr(self, name)}; "
                    "expected a whole number, 0 or more."
                )
        if not all(0 < zoom < 1 for zoom in self.zooms):
            raise UserError(
                f"TestTimeAugmentation.zooms is {list(self.zooms)}; expected "
                "shares of the side, each more than 0 and less than 1."
            )
        if self.count == 1:
            raise UserError(
                "TestTimeAugmentation asks for no view but the picture as it "
                "is. Expected flip = True, shifts, zooms or views; or None in "
                "its place."
            )

    @property
    def count(self) -> int:
        """How many views there are, the picture as it is included."""
        fixed = 1 + 4 * (self.shifts > 0) + len(self.zooms)
        return fixed * (1 + self.flip) + self.views

    def of(self, classifier: Classifier) -> "TestTimeViews":
        """The views of pictures for this classifier, which stays as it is.

        Args:
            classifier: gives the image size, and augmentation for `views`,
                whose layers are copied: what they draw from is left alone.

        Raises:
            UserError: the pictures are too small for the shifts, there is no
                augmentation to draw views by, or a layer can't be copied.
        """
        size = classifier.image_size
        if self.shifts >= size:
            raise UserError(
                f"TestTimeAugmentation.shifts is {self.shifts}; expected fewer "
                f"pixels than the pictures' side, {size}."
            )
        makers = [_mirrored] if self.flip else []
        for make in (*self._shifts(size), *self._zooms(size)):
            makers.append(make)
            if self.flip:
                makers.append(functools.partial(_mirrored, make=make))
        if self.views:
            makers += self._random(classifier)

        kinds = [
            *([f"shifts by {self.shifts} px"] if self.shifts else []),
            *([f"zooms {list(self.zooms)}"] if self.zooms else []),
            *(["mirror images"] if self.flip else []),
            *([f"{self.views} random"] if self.views else []),
        ]
        return TestTimeViews(
            tuple(makers),
            f"test-time augmentation, mean of {self.count} views "
            f"(as it is, {', '.join(kinds)})",
        )

    def _shifts(self, size: int) -> Iterator[_Maker]:
        for down, right in itertools.product((-1, 1), repeat=2):
            if self.shifts:
                rows, columns = (
                    np.clip(np.arange(size) - sign * self.shifts, 0, size - 1)
                    for sign in (down, right)
                )
                yield functools.partial(_gathered, rows=rows, columns=columns)

    def _zooms(self, size: int) -> Iterator[_Maker]:
        for zoom in self.zooms:
            # The same on both sides, so that it is the middle.
            margin = min(round(size * (1 - zoom) / 2), (size - 1) // 2)
            yield functools.partial(_magnified, margin=margin)

    def _random(self, classifier: Classifier) -> Iterator[_Maker]:
        # Those in the pipeline hold nothing that training draws from.
        layers = (
            *classifier.augmentation_in_pipeline,
            *copied(
                classifier.augmentation_in_model,
                "TestTimeAugmentation.views",
                ", or views = 0",
            ),
        )
        if not layers:
            raise UserError(
                f"TestTimeAugmentation.views is {self.views}, but "
                "classifier.augmentation names no layers to draw views by. "
                "Expected some, or views = 0."
            )

        @functools.cache
        def draw() -> _Maker:
            # Traced when it is asked for, which may take seconds.
            # One by one: what one gets must not hang on its neighbours.
            return augment_one_by_one(layers, self.seed, classifier.image_size)

        for number in range(self.views):
            yield lambda images, positions, far=number * FAR: draw()(
                images, positions + far
            )


@dataclasses.dataclass(frozen=True, eq=False)
class TestTimeViews:
    """Makes the views of one batch after another, for `predict_views`.

    Attributes:
        makers: of all views but the first, which is the picture as it is;
            from uint8 `[B, S, S, 3]`, pixels 0..255, and the positions of the
            examples in their split, int64 `[B]`, to uint8 `[B, S, S, 3]`.
        description: what is averaged over, in words.
    """

    makers: tuple[_Maker, ...]
    description: str

    @property
    def count(self) -> int:
        """How many views there are, the picture as it is included."""
        return 1 + len(self.makers)

    def __call__(
        self, images: tf.Tensor, positions: tf.Tensor
    ) -> Iterator[tf.Tensor]:
        """All views but the first, one after the other, made on the host."""
        for make in self.makers:
            with tf.device("CPU"):
                view = make(images, positions)
            yield view


def _mirrored(
    images: tf.Tensor, positions: tf.Tensor, make: _Maker | None = None
) -> tf.Tensor:
    """Mirror images of a view, or of the pictures."""
    view = images if make is None else make(images, positions)
    return tf.reverse(view, [2])


def _gathered(
    images: tf.Tensor,
    positions: tf.Tensor,
    rows: np.ndarray,
    columns: np.ndarray,
) -> tf.Tensor:
    return tf.gather(tf.gather(images, rows, axis=1), columns, axis=2)


def _magnified(
    images: tf.Tensor, positions: tf.Tensor, margin: int
) -> tf.Tensor:
    """What is so many pixels or more away from the edges, at full size."""
    size = images.shape[1]
    middle = images[:, margin : size - margin, margin : size - margin]
    resized = tf.image.resize(middle, (size, size))  # Bilinear, in floats.
    return tf.cast(tf.round(resized), tf.uint8)


def copied(
    layers: Sequence[keras.layers.Layer], for_what: str, otherwise: str = ""
) -> list[keras.layers.Layer]:
    """The same layers again, with generators of their own.

    Those in a model draw from generators that training advances, and another
    number on every replica.

    Args:
        layers: of augmentation.
        for_what: needs the copy, and is named where there can't be one.
        otherwise: what else could be done then.

    Raises:
        UserError: a layer can't be copied.
    """

    def copy(layer):
        try:
            return type(layer).from_config(layer.get_config())
        except (NotImplementedError, TypeError, ValueError) as error:
            raise UserError(
                f"{for_what} needs a copy of {type(layer).__name__}, which "
                f"can't be made: {error} Expected layers with get_config and "
                f"from_config{otherwise}."
            ) from error

    # Which Keras seeds new layers from.
    state = random.getstate()
    try:
        made = []
        for layer in layers:
            fused = [copy(part) for part in parts(layer)]
            made += fuse(fused) if fused else [copy(layer)]
        return made
    finally:
        random.setstate(state)
