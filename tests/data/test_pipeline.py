import collections
import contextlib
import dataclasses
import os
import signal
import socket
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
import tensorflow as tf

from framework.data import pipeline
from framework.data.images import (
    RESIZES,
    decode,
    decode_and_resize,
    resize,
)
from framework.data.pipeline import (
    Order,
    Pipeline,
    Share,
    example_ids,
    shuffled_index,
)
from framework.data.source import IndexedExamples, StreamedExamples
from framework.errors import UserError
from framework.registry import AUGMENTATIONS

SIZE = 16


@pytest.fixture
def examples(arrays):
    return arrays.splits["train"].select(np.arange(25))


@pytest.fixture
def with_broken(examples):
    """The same as PNG bytes, of which rows 3, 4 and 24 do not decode."""
    encoded = [
        tf.io.encode_png(examples.read(tf.constant(row))).numpy()
        for row in examples.rows
    ]
    for row in (3, 4, 24):
        encoded[row] = b"not an image"
    encoded = tf.constant(encoded)
    return dataclasses.replace(
        examples, read=lambda row: tf.gather(encoded, row)
    )


def encoded(examples, row):
    image = examples.read(row)
    return image if image.dtype == tf.string else tf.io.encode_png(image)


def streamed(examples: IndexedExamples) -> StreamedExamples:
    """The same as a stream, shuffled as the seed says."""

    def stream(seed):
        order = tf.range(len(examples), dtype=tf.int64)
        shuffled = tf.random.experimental.stateless_shuffle(
            order, tf.stack([seed, 0])
        )
        labels = tf.constant(examples.labels)
        ids = tf.constant(examples.ids.tolist())
        rows = tf.constant(examples.rows)
        return tf.data.Dataset.from_tensor_slices(
            tf.where(seed < 0, order, shuffled)
        ).map(
            lambda i: {
                "image": encoded(examples, tf.gather(rows, i)),
                "label": tf.gather(labels, i),
                "id": tf.gather(ids, i),
            }
        )

    def cut(begin, end):
        size = len(examples)
        indices = np.arange(round(begin * size), round(end * size))
        return streamed(examples.select(indices))

    return StreamedExamples(len(examples), stream, cut, 10)


def take(dataset, count):
    batches = list(dataset.take(count).as_numpy_iterator())
    return {
        key: np.concatenate([batch[key] for batch in batches])
        for key in batches[0]
    }


@pytest.mark.parametrize("kind", [lambda e: e, streamed])
def test_training_shows_each_example_once_an_epoch(examples, kind):
    dataset = Pipeline().training(kind(examples), SIZE, 10, seed=1)
    rows = take(dataset, 5)  # 50 = two epochs of 25, no batch cut short.
    assert rows["image"].shape == (50, SIZE, SIZE, 3)
    assert rows["image"].dtype == np.uint8
    assert rows["weight"].dtype == np.float32
    assert (rows["position"] == np.arange(50)).all()
    assert (rows["weight"] == 1).all()
    first, second = rows["id"][:25], rows["id"][25:]
    assert set(first) == set(second) == {i.encode() for i in examples.ids}
    assert list(first) != list(second)


@pytest.mark.parametrize("kind", [lambda e: e, streamed])
def test_training_can_be_entered_anywhere(examples, kind):
    whole = take(Pipeline().training(kind(examples), SIZE, 10, seed=1), 6)
    rest = take(
        Pipeline().training(
            kind(examples), SIZE, 10, seed=1, first_position=30
        ),
        3,
    )
    for key in whole:
        assert (whole[key][30:] == rest[key]).all(), key


def test_order_depends_on_the_seed(examples):
    orders = [
        list(take(Pipeline().training(examples, SIZE, 25, seed), 1)["id"])
        for seed in (1, 1, 2)
    ]
    assert orders[0] == orders[1] != orders[2]


def test_ids_images_and_labels_belong_together(examples):
    rows = take(Pipeline().training(examples, 20, 25, seed=3), 1)
    index = {i.encode(): n for n, i in enumerate(examples.ids)}
    for image, label, name in zip(
        rows["image"], rows["label"], rows["id"], strict=True
    ):
        row = index[name]
        assert label == examples.labels[row]
        assert (image == examples.read(tf.constant(row)).numpy()).all()


@pytest.mark.parametrize("size", [1, 2, 10, 97])
def test_every_epoch_is_a_permutation(size):
    positions = tf.range(size * 50, dtype=tf.int64)
    epochs = shuffled_index(positions, size, 7).numpy().reshape(50, size)
    assert (np.sort(epochs) == np.arange(size)).all()


def test_permutations_are_uniform():
    size, epochs = 10, 5000
    positions = tf.range(size * epochs, dtype=tf.int64)
    index = shuffled_index(positions, size, 0).numpy().reshape(epochs, size)
    # TensorFlow's index_shuffle given small integers makes but 256
    # permutations, and this statistic would be near 20.
    counts = np.array([np.bincount(c, minlength=size) for c in index.T])
    expected = epochs / size
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert chi_square / (size - 1) ** 2 < 1.5
    assert len({tuple(row) for row in index}) > 0.99 * epochs


RARE = np.array([0] * 14 + [2] * 3 + [5])  # 18 of three classes.


def test_a_balanced_epoch_has_as_many_of_each_class():
    order = Order(18, 7, RARE)
    index, visit = order.visit(tf.range(18 * 40, dtype=tf.int64))
    epochs = RARE[index.numpy()].reshape(40, 18)
    for label in (0, 2, 5):
        assert ((epochs == label).sum(axis=1) == 6).all()
    assert len({tuple(epoch) for epoch in epochs}) > 35, "in chance order"
    # No example comes again before all others of its class have.
    for label in (0, 2, 5):
        members = np.flatnonzero(label == RARE)
        mine = index.numpy()[np.isin(index, members)]
        times = visit.numpy()[np.isin(index, members)]
        size = len(members)
        for number in (0, 1, 2):
            one = mine[times == number]
            np.testing.assert_array_equal(np.sort(one), members)
        assert size == 1 or (mine[times == 0] != mine[times == 1]).any()
        assert np.bincount(times).max() == size
    # Of the 14, 6 an epoch: all have come after 3 epochs, and not before.
    for visits, epochs in ((1, 3), (2, 5), (3, 7)):
        assert order.until(visits) == epochs
        for after, complete in ((epochs, True), (epochs - 1, False)):
            seen = visit[: 18 * after] == visits - 1
            come = np.unique(index.numpy()[: 18 * after][seen])
            assert (len(come) == 18) == complete
    np.testing.assert_array_equal(order.per_epoch, [6, 6, 6])
    # Where they can't all get the same number.
    assert Order(20, 0, np.array([1] * 19 + [3])).per_epoch.sum() == 20
    assert Order(7, 0, np.arange(7) % 3).per_epoch.tolist() == [3, 2, 2]


def test_a_balanced_order_is_the_same_for_all_workers(examples):
    examples = examples.select(np.r_[0:25:2, 1:8:2])  # 13 dark, 4 bright.
    how = {"seed": 4, "sampling": "balanced"}
    whole = take(Pipeline().training(examples, SIZE, 6, **how), 9)
    labels = whole["label"][: 3 * 17].reshape(3, 17)
    assert (labels.sum(axis=1) == 8).all()
    assert example_ids(examples, whole["position"], **how) == [
        i.decode() for i in whole["id"]
    ]
    for worker in range(2):
        share = Share(2, worker)
        # From the third batch on.
        for batches in (
            Pipeline().training(
                examples, SIZE, 6, first_position=12, share=share, **how
            ),
            Pipeline().order(
                examples, 6, first_position=12, share=share, **how
            ),
        ):
            rows = take(batches, 7)
            mine = whole["position"] % 6 // 3 == worker
            mine &= whole["position"] >= 12
            for key in ("id", "label", "position"):
                np.testing.assert_array_equal(rows[key], whole[key][mine])


def test_samplings_that_can_not_be(examples):
    for kind, sampling, message in (
        (examples, "fair", "'fair'; expected one of 'natural', 'balanced'"),
        (streamed(examples), "balanced", "too large to be indexed"),
    ):
        with pytest.raises(UserError, match=message):
            Pipeline().training(kind, SIZE, 6, 0, sampling=sampling)


@pytest.mark.parametrize("kind", [lambda e: e, streamed])
def test_evaluation_pads_the_last_batch(examples, kind):
    dataset = Pipeline().evaluation(kind(examples), SIZE, 10)
    rows = take(dataset, 99)
    assert len(rows["id"]) == 30
    assert (rows["weight"] == [1] * 25 + [0] * 5).all()
    assert (rows["id"][25:] == b"").all()
    assert not rows["image"][25:].any()
    if kind is not streamed:
        assert list(rows["id"][:25]) == [i.encode() for i in examples.ids]


def test_what_does_not_decode_keeps_its_place(with_broken):
    broken = {with_broken.ids[row].encode() for row in (3, 4, 24)}
    rows = take(Pipeline().evaluation(with_broken, SIZE, 10), 99)
    assert list(np.nonzero(rows["weight"] == 0)[0]) == [3, 4, *range(24, 30)]
    assert rows["id"][24].decode() == with_broken.ids[24]
    rows = take(Pipeline().training(with_broken, SIZE, 10, seed=0), 10)
    assert (rows["position"] == np.arange(100)).all()
    assert set(rows["id"][rows["weight"] == 0]) == broken
    assert (rows["weight"] == 0).sum() == 12  # Three in each of four epochs.


@pytest.mark.parametrize("how", RESIZES)
def test_large_jpegs_are_decoded_at_less(examples, how):
    pixels = np.random.default_rng(0).integers(0, 256, (50, 99, 3))
    jpeg = tf.io.encode_jpeg(pixels.astype(np.uint8))
    examples = dataclasses.replace(examples, read=lambda row: jpeg)
    rows = take(Pipeline(resize=how).evaluation(examples, SIZE, 25), 1)
    expected = decode_and_resize(jpeg, SIZE, how).numpy()
    assert (rows["image"] == expected).all()
    whole = resize(decode(jpeg), SIZE, how).numpy()
    assert (expected != whole).any()


def test_streams_keep_the_ids_of_what_does_not_decode(with_broken):
    rows = take(Pipeline().evaluation(streamed(with_broken), SIZE, 10), 99)
    assert list(np.nonzero(rows["weight"] == 0)[0]) == [3, 4, *range(24, 30)]
    assert [i.decode() for i in rows["id"][:25]] == list(with_broken.ids)
    assert (rows["label"][:25] == with_broken.labels).all()
    assert (rows["id"][25:] == b"").all()


def test_a_chunk_of_which_nothing_decodes(examples):
    examples = dataclasses.replace(
        examples, read=lambda row: tf.strings.as_string(row)
    )
    rows = take(Pipeline().training(examples, SIZE, 10, seed=0), 5)
    assert (rows["position"] == np.arange(50)).all()
    assert not rows["weight"].any()
    assert not rows["image"].any()
    assert len(set(rows["id"])) == 25


@pytest.mark.parametrize(
    ("workers", "replicas", "first", "kind"),
    [(1, 2, 0, streamed), (2, 2, 36, lambda e: e)],
)
def test_workers_make_what_one_would(
    with_broken, kind, workers, replicas, first
):
    check_shares(kind(with_broken), workers, replicas, first, 12)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [lambda e: e, streamed])
@pytest.mark.parametrize("first", [0, 48])
@pytest.mark.parametrize("workers", [1, 2, 3, 4])
@pytest.mark.parametrize("replicas", [1, 2])
def test_any_number_of_workers_makes_what_one_would(
    with_broken, kind, workers, replicas, first
):
    check_shares(kind(with_broken), workers, replicas, first, 24)


def check_shares(examples, workers, replicas, first, batch, batches=7):
    def training(share):
        return Pipeline().training(examples, SIZE, batch, 5, first, share=share)

    def evaluation(share):
        return Pipeline().evaluation(examples, SIZE, batch, share)

    for dataset, count in ((training, batches), (evaluation, None)):
        whole = list(dataset(Share()).take(count or 99).as_numpy_iterator())
        parts = [
            list(
                dataset(Share(workers, worker, replicas))
                .take(count * replicas if count else 99)
                .as_numpy_iterator()
            )
            for worker in range(workers)
        ]
        assert all(len(p) == len(whole) * replicas for p in parts)
        for number, expected in enumerate(whole):
            mine = slice(number * replicas, (number + 1) * replicas)
            rows = [batch for part in parts for batch in part[mine]]
            for key in expected:
                joined = np.concatenate([row[key] for row in rows])
                np.testing.assert_array_equal(joined, expected[key], key)
    ids = [i for batch in whole for i in batch["id"] if i]
    assert len(ids) == len(set(ids)) == len(examples)


def test_a_worker_decodes_only_its_own(examples):
    read = []

    def spy(row):
        def note(row):
            read.append(int(row))
            return row

        row = tf.ensure_shape(tf.numpy_function(note, [row], tf.int64), [])
        return tf.ensure_shape(examples.read(row), (20, 20, 3))

    spied = dataclasses.replace(examples, read=spy)
    dataset = Pipeline().evaluation(spied, SIZE, 5, Share(5, 2))
    rows = take(dataset, 99)
    assert sorted(read) == list(range(2, 25, 5))
    assert list(rows["position"]) == list(range(2, 25, 5))


@pytest.mark.parametrize(
    ("share", "batch_size", "message"),
    [
        (Share(2, 0, 2), 30, "multiple of 4.* such as 28 or 32"),
        (Share(4), 3, "such as 4"),
        (Share(), 0, "multiple of 1"),
    ],
)
def test_batches_are_shared_evenly(examples, share, batch_size, message):
    for make in (
        share.rows,
        lambda b: Pipeline().evaluation(examples, SIZE, b, share),
        lambda b: Pipeline().training(examples, SIZE, b, 0, share=share),
    ):
        with pytest.raises(UserError, match=message):
            make(batch_size)


def test_shares_that_there_are_not():
    for arguments in ((0, 0), (2, 2), (1, -1), (1, 0, 0)):
        with pytest.raises(UserError, match="worker from 0"):
            Share(*arguments)


def test_ids_at_positions(examples):
    dataset = Pipeline().training(examples, SIZE, 10, 4)
    rows = take(dataset, 3)
    assert example_ids(examples, rows["position"], 4) == [
        i.decode() for i in rows["id"]
    ]
    assert example_ids(examples, [2, 99], None) == [examples.ids[2], ""]
    assert example_ids(streamed(examples), [7], 4) == [
        "the example at position 7"
    ]


def augmented(examples, layers, batches=6, **arguments):
    dataset = Pipeline().training(
        examples, SIZE, 6, augmentation=layers, **arguments
    )
    return take(dataset, batches)


def layers_of_both_libraries():
    return (
        keras.layers.RandomRotation(0.2),
        AUGMENTATIONS["keras_cv.GridMask"](),
    )


@pytest.mark.parametrize(
    "kind", [pytest.param(lambda e: e, marks=pytest.mark.slow), streamed]
)
def test_augmentation_is_a_function_of_seed_and_position(with_broken, kind):
    examples = kind(with_broken)
    layers = layers_of_both_libraries()
    plain = augmented(examples, (), seed=0)
    whole = augmented(examples, layers, seed=0)
    read = whole["weight"] > 0
    assert (whole["image"] != plain["image"])[read].any(axis=(1, 2, 3)).all()
    assert not whole["image"][~read].any()
    # Continued, with layers made anew, on one of two workers.
    rest = augmented(
        examples,
        layers_of_both_libraries(),
        batches=4,
        seed=0,
        first_position=12,
        share=Share(2, 1),
    )
    np.testing.assert_array_equal(
        rest["image"], whole["image"][rest["position"]]
    )
    other = augmented(examples, layers, seed=1)
    assert (other["image"] != whole["image"]).any()


def test_bad_settings_are_refused():
    with pytest.raises(UserError, match="squash, crop, pad"):
        Pipeline(resize="stretch")
    with pytest.raises(UserError, match="from 0 to 1"):
        Pipeline(max_unreadable=5)
    for address in (
        "localhost:5050",
        "grpc://x",
        "grpc://x:99999",
        "grpc://:1",
    ):
        with pytest.raises(UserError, match="grpc://host:port"):
            Pipeline(service=address)


# The tf.data service.


@pytest.fixture
def service():
    """A dispatcher and two workers; gives its address and the workers."""
    api = tf.data.experimental.service
    dispatcher = api.DispatchServer(
        api.DispatcherConfig(worker_timeout_ms=5000)
    )
    address = dispatcher.target.replace("localhost", "127.0.0.1")
    workers = [
        api.WorkerServer(
            api.WorkerConfig(
                dispatcher_address=address.removeprefix("grpc://"),
                worker_address="127.0.0.1:%port%",
                heartbeat_interval_ms=500,
                dispatcher_timeout_ms=5000,
            )
        )
        for _ in range(2)
    ]
    yield address, workers
    for worker in workers:
        worker._stop()
    dispatcher.stop()


@contextlib.contextmanager
def time_limit(seconds):
    """Ends the whole process: TensorFlow does not heed exceptions."""
    previous = signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)


@pytest.mark.parametrize(
    "kind", [lambda e: e, pytest.param(streamed, marks=pytest.mark.slow)]
)
def test_a_service_shows_each_example_once_an_epoch(with_broken, service, kind):
    address, _ = service
    # Many times what is under way at once.
    copies, size = 20, len(with_broken)
    many = with_broken.select(np.arange(copies * size) % size)
    ids = [f"{i}/{n // size}" for n, i in enumerate(many.ids)]
    many = dataclasses.replace(many, ids=np.array(ids, object))
    # Two processes of one run, which share what there is.
    iterators = [
        Pipeline(service=address)
        .training(kind(many), SIZE, 20, 1, share=Share(2, w), job="a")
        .as_numpy_iterator()
        for w in range(2)
    ]
    with time_limit(60):
        # Three epochs.
        batches = [
            next(iterators[n % 2]) for n in range(3 * copies * size // 10)
        ]
    assert all(b["image"].shape == (10, SIZE, SIZE, 3) for b in batches)
    counts = collections.Counter(i.decode() for b in batches for i in b["id"])
    assert set(counts) == set(many.ids)
    assert set(counts.values()) <= {2, 3, 4}
    broken = {many.ids[n] for n in range(len(many)) if n % size in (3, 4, 24)}
    labels = dict(zip(many.ids, many.labels, strict=True))
    for batch in batches:
        for i, weight, label in zip(
            batch["id"], batch["weight"], batch["label"], strict=True
        ):
            assert weight == (i.decode() not in broken)
            assert label == labels[i.decode()]
    positions = [p for batch in batches for p in batch["position"]]
    assert len(set(positions)) == len(positions)


def test_a_service_augments_as_this_process_does(examples, service):
    address, _ = service
    layers = layers_of_both_libraries()
    with time_limit(60):
        rows = take(
            Pipeline(service=address).training(
                examples, SIZE, 5, 1, first_position=25, augmentation=layers
            ),
            8,
        )
    local = take(Pipeline().training(examples, SIZE, 5, 1, 0, layers), 40)
    assert (rows["position"] >= 25).all()
    np.testing.assert_array_equal(
        rows["image"], local["image"][rows["position"]]
    )


def test_training_goes_on_without_a_service_worker(examples, service):
    address, workers = service
    batches = (
        Pipeline(service=address)
        .training(examples, SIZE, 5, 1)
        .as_numpy_iterator()
    )
    with time_limit(60):
        before = [next(batches) for _ in range(20)]
        workers.pop()._stop()
        after = [next(batches) for _ in range(100)]
    positions = [p for b in before + after for p in b["position"]]
    assert len(set(positions)) == len(positions) == 600
    # What the worker held is lost, and nothing else.
    assert max(positions) < 700


def test_no_service_there(examples):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = time.monotonic()
    there_is_none = Pipeline(service=f"grpc://127.0.0.1:{port}")
    there_is_none.evaluation(examples, SIZE, 5)
    with pytest.raises(UserError, match="service answers"):
        there_is_none.training(examples, SIZE, 5, 0)
    assert time.monotonic() - started < 2 * pipeline._CONNECT_SECONDS


def test_a_service_is_announced():
    assert Pipeline().description == ()
    (text,) = Pipeline(service="grpc://x:1").description
    assert "neither bit-reproducible nor exactly resumable" in text


@pytest.mark.slow
def test_a_service_of_processes(examples):
    def start(*flags):
        process = subprocess.Popen(
            [sys.executable, "-m", "framework.data_service", *flags],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1"},
        )
        processes.append(process)
        return process.stdout.readline()

    processes = []
    try:
        with time_limit(120):
            address = start("--role=dispatcher").split()[-1]
            assert address.startswith("grpc://127.0.0.1:")
            dispatcher = address.removeprefix("grpc://")
            start("--role=worker", f"--dispatcher={dispatcher}")
            rows = take(
                Pipeline(service=address).training(examples, SIZE, 5, 1), 10
            )
            for process in processes:
                process.terminate()
            assert [p.wait(timeout=30) for p in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
            process.wait()
            process.stdout.close()
    # A single worker keeps the order.
    assert (rows["position"] == np.arange(50)).all()


@pytest.mark.parametrize(
    "flags", [["--role=worker"], ["--role=dispatcher", "--dispatcher=x:1"], []]
)
def test_flags_of_the_service_that_do_not_fit(flags):
    ended = subprocess.run(
        [sys.executable, "-m", "framework.data_service", *flags],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode
    assert "--dispatcher=host:port" in ended.stdout + ended.stderr or (
        not flags and "--role" in ended.stderr
    )
