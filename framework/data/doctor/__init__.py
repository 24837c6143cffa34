"""Turns a task's data into findings: what is wrong with it, and where."""
