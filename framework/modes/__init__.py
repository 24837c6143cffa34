"""Turns a configuration into finished work: one module a mode."""
