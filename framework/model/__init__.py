"""Turns names of backbones, heads and layers into one Keras model."""
