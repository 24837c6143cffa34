"""Turns the machine's devices into the strategy that training runs under."""

import tensorflow as tf


def make_strategy() -> tf.distribute.Strategy:
    """One replica on the machine's first accelerator, or on its CPU."""
    return tf.distribute.get_strategy()
