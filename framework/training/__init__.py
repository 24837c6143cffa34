"""Turns a model and batches into a trained model and its history."""
