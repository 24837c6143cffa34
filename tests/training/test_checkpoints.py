import json
import os
import time

import numpy as np
import pytest

from framework.digests import digest
from framework.errors import UserError
from framework.training.checkpoints import Checkpoints, CheckpointStore

EVERY = Checkpoints(every_steps=1, every_minutes=None, keep=2)
ARRAYS = {"model/00000": np.arange(5.0), "best/00000": np.ones((2, 3))}


def fits(arrays, state):
    return None


@pytest.fixture
def store(tmp_path):
    made = CheckpointStore(str(tmp_path / "checkpoints"), EVERY)
    yield made
    made.close()


def save(store, step, **state):
    store.save(step, {**ARRAYS, "step": np.array(step)}, state)
    store.wait()


def names(store):
    return sorted(os.listdir(store.directory))


def test_what_is_saved_comes_back(store):
    assert store.load(fits) == (None, [])
    save(store, 7, epochs=[{"loss": 0.1}])
    (arrays, state), passed_over = store.load(fits)
    assert passed_over == []
    assert state["epochs"] == [{"loss": 0.1}]
    assert state["step"] == 7
    for name, value in ARRAYS.items():
        np.testing.assert_array_equal(arrays[name], value)


def test_the_newest_are_kept(store):
    for step in (3, 8, 20, 100):
        save(store, step)
    assert names(store) == ["00000020-0000", "00000100-0000"]
    assert store.load(fits)[0][1]["step"] == 100


def test_it_is_due_by_steps_and_by_time(store):
    ten = CheckpointStore(store.directory, Checkpoints(10, None))
    assert [ten.is_due(s, 1) for s in (9, 10, 11)] == [False, True, False]
    assert ten.is_due(23, 4)
    assert not ten.is_due(29, 4)
    often = CheckpointStore(store.directory, Checkpoints(None, 1e-9))
    assert often.is_due(1, 1)
    assert not CheckpointStore(None, Checkpoints(1)).is_due(1, 1)


@pytest.mark.parametrize("damage", ["cut", "flipped", "no arrays", "foreign"])
def test_a_damaged_one_gives_way_to_the_one_before(store, tmp_path, damage):
    save(store, 1)
    save(store, 2)
    place = tmp_path / "checkpoints" / "00000002-0000"
    arrays = place / "arrays.npz"
    content = bytearray(arrays.read_bytes())
    if damage == "cut":
        arrays.write_bytes(content[:100])
    elif damage == "flipped":
        content[-40] ^= 1
        arrays.write_bytes(content)
    elif damage == "no arrays":
        arrays.unlink()
    else:
        (place / "state.json").write_text(json.dumps({"format": 99}))
    (_, state), passed_over = store.load(fits)
    assert state["step"] == 1
    assert len(passed_over) == 1
    assert "00000002" in passed_over[0]


@pytest.mark.parametrize("left", [None, '{"format": 1, "st'])
def test_one_that_was_not_finished_is_passed_over(store, tmp_path, left):
    place = tmp_path / "checkpoints" / "00000004-0000"
    place.mkdir(parents=True)
    (place / "arrays.npz").write_bytes(b"PK")
    if left:
        (place / "state.json").write_text(left)
    found, passed_over = store.load(fits)
    assert found is None
    assert "was not finished" in passed_over[0]
    # It does not stand in the way of those to come.
    save(store, 2)
    assert names(store) == ["00000002-0000"]


def test_where_none_can_be_used_nothing_begins_anew(store, tmp_path):
    save(store, 1)
    (tmp_path / "checkpoints" / "00000001-0000" / "arrays.npz").write_bytes(b"")
    with pytest.raises(UserError, match=r"None of this run's .* damaged"):
        store.load(fits)
    save(store, 2)
    with pytest.raises(UserError, match="of another model"):
        store.load(lambda arrays, state: "of another model")


def test_a_full_disk_leaves_the_last_one_intact(store, monkeypatch):
    save(store, 1)

    def full(arrays):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("framework.training.checkpoints._pack", full)
    store.save(2, ARRAYS, {})
    with pytest.raises(UserError, match=r"No space left .* is intact"):
        store.wait()
    assert names(store) == ["00000001-0000"]
    assert store.load(fits)[0][1]["step"] == 1


def test_the_first_on_a_full_disk(store, monkeypatch):
    def full(arrays):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("framework.training.checkpoints._pack", full)
    store.save(2, ARRAYS, {})
    with pytest.raises(UserError, match="There was none before it"):
        store.wait()


def test_one_step_is_saved_before_and_after_its_epoch_ends(store, tmp_path):
    save(store, 4, epochs=[])
    save(store, 4, epochs=[{"loss": 1}])
    assert names(store) == ["00000004-0000", "00000004-0001"]
    assert store.load(fits)[0][1]["epochs"] == [{"loss": 1}]
    # The same once more is not worth a moment without it.
    written = (tmp_path / "checkpoints/00000004-0001/state.json").stat()
    save(store, 4, epochs=[{"loss": 1}])
    again = (tmp_path / "checkpoints/00000004-0001/state.json").stat()
    assert written.st_mtime_ns == again.st_mtime_ns


def test_what_callbacks_remember_must_fit_json(store):
    save(store, 1, callbacks=[{"best": np.float32(0.5), "all": np.ones(2)}])
    remembered = store.load(fits)[0][1]["callbacks"]
    assert remembered == [{"best": 0.5, "all": [1.0, 1.0]}]
    with pytest.raises(UserError, match=r"is a set.* get_state"):
        store.save(2, ARRAYS, {"callbacks": [{"seen": {1}}]})


def test_saving_does_not_wait_for_the_disk(store, monkeypatch):
    def slow(arrays):
        time.sleep(0.5)
        return b""

    monkeypatch.setattr("framework.training.checkpoints._pack", slow)
    began = time.monotonic()
    store.save(1, ARRAYS, {})
    assert time.monotonic() - began < 0.4
    store.wait()
    assert time.monotonic() - began > 0.4


def test_other_file_systems_do(request):
    """ram:// has no renames of directories, as gs:// has none."""
    store = CheckpointStore(f"ram://{request.node.name}/checkpoints", EVERY)
    for step in (1, 2, 3):
        save(store, step)
    (_, state), _ = store.load(fits)
    assert state["step"] == 3
    assert store._names() == ["00000002-0000", "00000003-0000"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"every_steps": 0}, "Checkpoints.every_steps is 0"),
        ({"every_minutes": -1.0}, "Checkpoints.every_minutes is -1"),
        ({"keep": 0}, "Checkpoints.keep is 0"),
    ],
)
def test_bad_settings_are_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        Checkpoints(**arguments)


def test_digests_tell_apart():
    ids = np.array(["a", "bc"], object)
    assert digest(ids, np.arange(2)) == digest(ids.copy(), np.arange(2))
    assert digest(ids) != digest(np.array(["ab", "c"], object))
    assert digest({"a": 1}) != digest({"a": 2})
