"""Turns sources of images into batches of uint8 pixels."""
