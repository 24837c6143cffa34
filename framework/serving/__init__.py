"""Turns a trained model into a small HTTP server, for trying and for testing.

For heavy traffic the exported SavedModel goes into TensorFlow Serving, whose
requests this one takes, too. Needs the extra `serve`.
"""
