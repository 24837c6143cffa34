"""--mode=lr_find: the range test of learning rates."""

import json

import numpy as np
import pytest

import framework
from framework.errors import UserError
from framework.modes.lr_find import _conclude

QUICK = ["shapes.examples = 200", "train.batch_size = 16"]


def test_it_suggests_a_rate_that_trains_and_shows_why(in_tmp, capsys):
    found = framework.run("gin/smoke.gin", QUICK, mode="lr_find")
    assert found.rates[0] == pytest.approx(1e-6)
    steps = np.diff(np.log(found.rates))
    np.testing.assert_allclose(steps, np.log(1e6) / 149, rtol=1e-6)
    least = found.rates[int(np.argmin(found.smoothed))]
    assert found.suggestion == pytest.approx(least / 10)
    # What is bound there, 0.002, was found by hand.
    assert 2e-5 < found.suggestion < 2e-2
    run = in_tmp / "runs/smoke/lr_find/001"
    assert (run / "lr_find.png").read_bytes().startswith(b"\x89PNG")
    written = json.loads((run / "lr_find.json").read_text())
    assert written["suggestion"] == found.suggestion
    assert f"{found.suggestion:.2g}" in capsys.readouterr().out
    # Nothing that training would take up.
    assert not (in_tmp / "runs/smoke/001").exists()


@pytest.mark.slow
def test_a_later_phase_is_tested_after_the_ones_before(in_tmp, capsys):
    found = framework.run(
        "gin/smoke.gin",
        [
            *QUICK,
            "train.epochs = None",
            "train.phases = @fine_tune()",
            "fine_tune.head_epochs = 3",
            "lr_find.phase = 2",
        ],
        mode="lr_find",
    )
    text = capsys.readouterr().out
    assert "Phase 1, head, is trained first." in text
    # The head knows something already: a fresh one has ln 3 = 1.10.
    assert found.losses[0] < 1.05


def losses_of(valley: float) -> np.ndarray:
    """Losses at 100 rates from 1e-6 to 1, the least at `valley`."""
    rates = 10.0 ** np.linspace(-6, 0, 100)
    return 1 + 0.2 * np.log10(rates / valley) ** 2


def test_the_suggestion_is_a_tenth_of_where_the_loss_is_least():
    found = _conclude(losses_of(1e-2).tolist(), 1e-6, 1.0, 100)
    # The smoothed loss lags behind, by ten updates at most.
    assert 1e-3 < found.suggestion < 1e-3 * 10 ** (6 * 10 / 99)
    assert found.steepest < found.suggestion * 10


@pytest.mark.parametrize(
    ("bindings", "message"),
    [
        (["lr_find.lowest = 2.0"], "0 < lowest < highest"),
        (["lr_find.updates = 5"], "at least 20"),
        (["lr_find.phase = 2"], "expected 1 to 1"),
        (["lr_find.lowest = 0.5"], "expected a lower lr_find.lowest"),
    ],
)
def test_mistakes_are_told(in_tmp, bindings, message):
    with pytest.raises(UserError, match=message):
        framework.run("gin/smoke.gin", [*QUICK, *bindings], mode="lr_find")
    assert not (in_tmp / "runs").exists()
