"""Turns a seed and an index into a picture of a hand, posed and rendered."""
