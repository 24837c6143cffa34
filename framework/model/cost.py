"""Turns a model into what it costs: operations a picture."""

import keras
import tensorflow as tf


def operations(model: keras.Model) -> int | None:
    """Floating-point operations for one picture in inference mode.

    As TensorFlow's profiler counts them: a multiplication and an addition are
    two, whatever the device makes of them. Other people's "FLOPs" are often
    multiply-adds, half of that.

    Args:
        model: takes `[B, S, S, 3]`.

    Returns:
        None where the profiler can't count them.
    """
    profiler = tf.compat.v1.profiler
    options = (
        profiler.ProfileOptionBuilder(
            profiler.ProfileOptionBuilder.float_operation()
        )
        .with_empty_output()
        .build()
    )
    shape = (1, *model.input_shape[1:])
    with tf.device("CPU"):
        traced = tf.function(
            lambda pixels: model(pixels, training=False), autograph=False
        ).get_concrete_function(tf.TensorSpec(shape, model.inputs[0].dtype))
    # It calls what TensorFlow itself has deprecated, and says so.
    logger = tf.get_logger()
    level = logger.level
    logger.setLevel("ERROR")
    try:
        found = profiler.profile(traced.graph, options=options)
    finally:
        logger.setLevel(level)
    return found.total_float_ops or None
