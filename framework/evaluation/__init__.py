"""Turns a trained model and a split into figures and pictures."""
