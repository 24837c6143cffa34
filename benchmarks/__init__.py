"""This against what it is measured by, side by side in one run."""

import os

# Before TensorFlow is loaded, whichever module comes first.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
