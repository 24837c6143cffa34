"""Every shipped gin file's training step compiles with XLA, as TPUs need it.

No TPU is at hand: here the step is compiled, and run, on the CPU.
"""

import pathlib

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from tensorflow.python.framework import config

import framework
from framework.training.distribution import Distribution, World
from framework.training.trainer import Trainer

ROOT = pathlib.Path(__file__).resolve().parent.parent
GIN_FILES = sorted(
    path.name for path in (ROOT / "gin").glob("*.gin") if path.stem != "base"
)
QUICK = ("smoke.gin",)


class Compiled(Exception):
    """The step was compiled and has run."""


@pytest.mark.parametrize(
    "name",
    [
        name if name in QUICK else pytest.param(name, marks=pytest.mark.slow)
        for name in GIN_FILES
    ],
)
def test_the_step_compiles(in_tmp, some_pictures, monkeypatch, request, name):
    world = World(tf.distribute.get_strategy(), "tpu")
    monkeypatch.setattr(Distribution, "make", lambda self: world)

    def fit(self, plan, batches, *unused, **also_unused):
        batch = next(self.stream(batches, plan))
        before = [v.numpy() for v in self.model.trainable_variables]
        step = tf.function(self._replica_step, jit_compile=True)
        (report,) = step(
            batch["image"], batch["label"], batch["weight"], tf.zeros(2)
        )
        loss, _, correct, examples, *_ = report.numpy()
        # XLA draws other random numbers: no figure can be compared.
        assert 0 < loss < 10
        assert 0 <= correct <= examples == 8
        after = [v.numpy() for v in self.model.trainable_variables]
        assert all(np.isfinite(value).all() for value in after)
        assert any((a != b).any() for a, b in zip(after, before, strict=True))
        raise Compiled

    monkeypatch.setattr(Trainer, "fit", fit)
    # All tests are deterministic; what runs on a TPU is so by itself.
    config.disable_op_determinism()
    request.addfinalizer(tf.config.experimental.enable_op_determinism)
    bindings = [
        "train.epochs = 1",
        "train.batch_size = 8",
        f"classifier.image_size = {32 if name == 'smoke.gin' else 64}",
        f"ImageFolder.root = '{some_pictures}'  # may be unused",
    ]
    with tfds.testing.mock_data(num_examples=16), pytest.raises(Compiled):
        framework.run(f"gin/{name}", bindings)
