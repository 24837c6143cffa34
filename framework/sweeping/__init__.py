"""Turns a space of bindings into trials, by Optuna, and these into a page."""
