"""Turns finished runs into what is deployed, and shows that it is the same."""
