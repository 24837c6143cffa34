"""Turns trained models and pictures into answers; needs no gin file."""
