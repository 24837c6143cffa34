"""Turns the rows of a batch into mixtures of two of them each.

What is drawn at random is drawn with the batch, on the host, as a function of
the seed and of the position of the batch's first row, so that a run can be
repeated and continued. (XLA can't draw what is distributed so.) The pictures
are mixed where they are trained on.
"""

import dataclasses
from collections.abc import Callable, Sequence

import tensorflow as tf

from framework.digests import digest
from framework.errors import UserError
from framework.ranges import Positive, Share
from framework.registry import PARTS

# What is drawn for a row: how much of each pixel is its own; and the box that
# is all its partner's, from and to, as shares of the sides.
SHARE, TOP, BOTTOM, LEFT, RIGHT = range(5)


@dataclasses.dataclass(frozen=True)
class _Mixing:
    alpha: float
    probability: float

    def __post_init__(self):
        name = type(self).__name__
        if not self.alpha > 0:
            raise UserError(
                f"{name}.alpha is {self.alpha}; expected more than 0."
            )
        if not 0 <= self.probability <= 1:
            raise UserError(
                f"{name}.probability is {self.probability}; expected a share "
                "of pictures, from 0 to 1."
            )


@PARTS.register()
@dataclasses.dataclass(frozen=True)
class MixUp(_Mixing):
    """Blends two pictures (Zhang et al. 2018, https://arxiv.org/abs/1710.09412).

    Attributes:
        alpha: the share of a picture's own in the mixture is drawn from
            Beta(alpha, alpha); with 1 all shares are equally likely, with
            less those near 0 and 1.
        probability: the share of pictures that are mixed.

    Raises:
        UserError: a value is out of range.
    """

    alpha: Positive = 0.2
    probability: Share = 1.0

    def draw(self, share: tf.Tensor, uniform: tf.Tensor) -> tf.Tensor:
        """What is drawn for rows, `[b, 5]`.

        Args:
            share: float32 `[b]`, of Beta(alpha, alpha).
            uniform: float32 `[b, 2]`, 0..1.
        """
        nothing = tf.zeros_like(share)
        return tf.stack([share, *[nothing] * 4], -1)


@PARTS.register()
@dataclasses.dataclass(frozen=True)
class CutMix(_Mixing):
    """Puts a box of one picture into another at the same place.

    Yun et al. 2019, https://arxiv.org/abs/1905.04899. The box has the
    picture's proportions and any centre; what lies outside is cut off, and
    labels count by the area that is left.

    Attributes:
        alpha: the area outside of the whole box is drawn from
            Beta(alpha, alpha), as a share of the picture's.
        probability: the share of pictures that are mixed.

    Raises:
        UserError: a value is out of range.
    """

    alpha: Positive = 1.0
    probability: Share = 1.0

    def draw(self, share: tf.Tensor, uniform: tf.Tensor) -> tf.Tensor:
        """As `MixUp.draw`."""
        half = tf.sqrt(1 - share) / 2
        limits = [
            tf.clip_by_value(uniform[:, axis] + sign * half, 0.0, 1.0)
            for axis in range(2)
            for sign in (-1, 1)
        ]
        return tf.stack([tf.ones_like(share), *limits], -1)


def check(mixing: Sequence[MixUp | CutMix], rows: int) -> None:
    """Refuses what can't be mixed.

    Args:
        mixing: what `train.mixing` names.
        rows: of a replica's batch.

    Raises:
        UserError: something else is among them, or a row has no partner.
    """
    for each in mixing:
        if not isinstance(each, _Mixing):
            raise UserError(
                f"train.mixing holds {each!r}; expected a list of @MixUp() "
                "and @CutMix(), with parentheses."
            )
    if mixing and rows < 2:
        raise UserError(
            "train.mixing mixes the rows of a replica's batch with each other, "
            "and there is but one; expected train.batch_size to be at least "
            "twice the number of replicas."
        )


def describe(mixing: Sequence[MixUp | CutMix], replicas: int) -> str:
    """A sentence for the start-up text."""
    names = " or ".join(
        f"{type(m).__name__} (alpha {m.alpha:g}"
        + (f", {m.probability:.0%} of pictures" if m.probability < 1 else "")
        + ")"
        for m in mixing
    )
    within = (
        f", within the rows of each of the {replicas} replicas: with another "
        "number of them, others meet"
    )
    return (
        f"Training pictures are mixed by {names}, before the model augments "
        f"them{within if replicas > 1 else ''}; training accuracy is that of "
        "the label with the larger share."
    )


def named(mixing: Sequence[MixUp | CutMix]) -> str:
    """What it is called: "MixUp or CutMix"."""
    return " or ".join(type(each).__name__ for each in mixing)


def drawing(
    mixing: Sequence[MixUp | CutMix], seed: int
) -> Callable[[dict[str, tf.Tensor]], dict[str, tf.Tensor]]:
    """Makes the function that adds what is drawn to a batch.

    Every row has draws of its own. Of several mixings each row draws one.

    Args:
        mixing: at least one.
        seed: of the run.

    Returns:
        From a replica's batch with "position" int64 `[b]` to the same with
        "mixing" float32 `[b, 5]` beside: `SHARE` and so on.
    """
    key = int(digest("mixing", seed), 16) - 2**63
    alphas = tf.constant([m.alpha for m in mixing], tf.float32)
    probabilities = tf.constant([m.probability for m in mixing], tf.float32)

    @tf.autograph.experimental.do_not_convert
    def draw(batch):
        rows = tf.size(batch["position"])
        first = tf.stack([tf.constant(key, tf.int64), batch["position"][0]])
        seeds = tf.unstack(tf.random.split(first, 3))
        drawn = tf.random.stateless_uniform([rows, 4], seeds[0])
        number = tf.cast(drawn[:, 0] * len(mixing), tf.int32)
        number = tf.minimum(number, len(mixing) - 1)
        share = _beta(tf.gather(alphas, number), seeds[1:])
        made = tf.stack([m.draw(share, drawn[:, 2:]) for m in mixing], 1)
        made = tf.gather(made, number, batch_dims=1)
        untouched = tf.constant([1.0, 0.0, 0.0, 0.0, 0.0])
        is_mixed = drawn[:, 1] < tf.gather(probabilities, number)
        made = tf.where(is_mixed[:, tf.newaxis], made, untouched)
        return {
            **batch,
            "mixing": tf.ensure_shape(made, (batch["position"].shape[0], 5)),
        }

    return draw


def _beta(alpha: tf.Tensor, seeds: Sequence[tf.Tensor]) -> tf.Tensor:
    """Draws of Beta(alpha, alpha), float32 `[b]`.

    Of two gamma variates a and b, a / (a + b) is one. For small alpha both may
    be 0 in floating point, but not their logarithms: a is distributed as
    Gamma(alpha + 1) * uniform ** (1 / alpha) (Marsaglia & Tsang 2000, section
    6, https://doi.org/10.1145/358407.358414).
    """

    def log_gamma(seed):
        both = tf.unstack(tf.random.split(seed, 2))
        shape = tf.shape(alpha)
        gamma = tf.random.stateless_gamma(shape, both[0], alpha + 1)
        uniform = 1 - tf.random.stateless_uniform(shape, both[1])  # Not 0.
        return tf.math.log(gamma) + tf.math.log(uniform) / alpha

    return tf.sigmoid(log_gamma(seeds[0]) - log_gamma(seeds[1]))


def mix(
    images: tf.Tensor, weights: tf.Tensor, drawn: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Mixes every row with its partner, the last with the first and so on.

    Args:
        images: `[b, S, S, 3]`, pixels 0..255, as the pipeline has them.
        weights: float32 `[b]`; what did not decode has weight 0 and is nobody's
            partner.
        drawn: float32 `[b, 5]`, from `drawing`.

    Returns:
        The mixtures, of the images' dtype, rounded where that is uint8, as the
        model takes them; and which share of each is its own, float32 `[b]`.
    """
    there = (tf.reverse(weights, [0]) > 0)[:, tf.newaxis]
    drawn = tf.where(there, drawn, tf.constant([1.0, 0.0, 0.0, 0.0, 0.0]))
    share = drawn[:, SHARE]
    height, width = images.shape[1:3]

    def inside(low, high, side):  # [b, side]
        pixels = tf.range(side, dtype=tf.float32)
        low, high = (
            tf.round(drawn[:, limit, tf.newaxis] * side)
            for limit in (low, high)
        )
        return tf.cast((pixels >= low) & (pixels < high), tf.float32)

    rows, columns = inside(TOP, BOTTOM, height), inside(LEFT, RIGHT, width)
    outside = 1 - rows[:, :, tf.newaxis] * columns[:, tf.newaxis]
    own = (share[:, tf.newaxis, tf.newaxis] * outside)[..., tf.newaxis]
    pixels = tf.cast(images, tf.float32)
    mixed = own * pixels + (1 - own) * tf.reverse(pixels, [0])
    if images.dtype.is_integer:
        mixed = tf.round(mixed)
    area = tf.reduce_mean(rows, 1) * tf.reduce_mean(columns, 1)
    return tf.cast(mixed, images.dtype), share * (1 - area)
