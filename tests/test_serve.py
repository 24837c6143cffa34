"""The server: answers, limits, overload, its page, its end."""

import asyncio
import base64
import concurrent.futures
import contextlib
import http.client
import json
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf
from pictures import encoded, photo
from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By

import framework
from framework.errors import UserError
from framework.export import artifact
from framework.model.classifier import classifier
from framework.model.heads import softmax_head
from framework.modes.serve import serve
from framework.registry import BACKBONES
from framework.serving.batching import Batcher, Broken, Overloaded
from framework.serving.server import Limits, application

NAMES = ("cat", "dog", "<b>fox</b>")
SIZE = 32
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """An artifact of a model that nobody has trained."""
    place = tmp_path_factory.mktemp("saved") / "1"
    model = classifier(3, BACKBONES["tiny_cnn"], softmax_head, SIZE).model
    artifact.write(model, str(place), NAMES, "pad", {"source": "a test"})
    return place


@contextlib.contextmanager
def served(model, *flags):
    """A server of its own; gives process and port."""
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "framework.main", "--mode=serve"),
            *(str(model), "--port=0", *flags),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        line = process.stdout.readline()
        port = int(re.search(r"http://127\.0\.0\.1:(\d+)/", line)[1])
        for _ in range(200):
            with contextlib.suppress(OSError):
                if ask(port, "GET", "/healthz")[0] == 200:
                    break
            time.sleep(0.05)
        yield process, port
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def ask(port, method, path, body=None, kind="application/json", **headers):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    with contextlib.closing(connection):
        headers["Content-Type"] = kind
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        return response.status, response.read()


PREDICT = "/v1/models/model:predict"


def instances(*pictures):
    return json.dumps(
        {
            "instances": [
                {"b64": base64.b64encode(data).decode()} for data in pictures
            ]
        }
    )


@pytest.fixture(scope="module")
def server(saved):
    with served(saved) as (_, port):
        yield port


def kinds():
    return [
        encoded(photo(), "JPEG"),
        encoded(photo(seed=1), "PNG"),
        encoded(photo(seed=2).convert("L"), "JPEG"),
        encoded(photo(seed=3).convert("CMYK"), "JPEG"),
        encoded(photo(41, 41, 4), "JPEG"),
        encoded(photo(6000, 300, 5), "JPEG"),
    ]


def test_answers_are_those_of_predict(server, saved, tmp_path):
    files = []
    for number, data in enumerate(kinds()):
        files.append(tmp_path / str(number))
        files[-1].write_bytes(data)
    model = framework.load(saved)
    expected = list(model.predict(files))
    status, body = ask(server, "POST", PREDICT, instances(*kinds()))
    assert status == 200
    found = json.loads(body)["predictions"]
    assert len(found) == len(expected)
    for answer, row in zip(expected, found, strict=True):
        difference = answer.probabilities - np.array(row["probabilities"])
        assert abs(difference).max() < 1e-5
        assert row["class"] == answer.class_name
        assert NAMES[row["label"]] == answer.class_name
    # One by one, and as TensorFlow Serving names the input.
    for data, row in zip(kinds(), found, strict=True):
        status, body = ask(server, "POST", PREDICT, data, "image/jpeg")
        alone = json.loads(body)["predictions"][0]
        assert alone["probabilities"] == pytest.approx(
            row["probabilities"], abs=1e-5
        )
    b64 = base64.b64encode(kinds()[0]).decode()
    named = json.dumps({"instances": [{"image_bytes": {"b64": b64}}]})
    (alone,) = json.loads(ask(server, "POST", PREDICT, named)[1])["predictions"]
    assert alone["class"] == found[0]["class"]


@pytest.mark.parametrize(
    "body, kind, status, message",
    [
        ("{", "application/json", 400, "Expected"),
        ("[]", "application/json", 400, "Expected"),
        ('{"instances": []}', "application/json", 400, "Expected"),
        ('{"instances": [{"b64": "?"}]}', "application/json", 400, "Expected"),
        ('{"instances": [3]}', "application/json", 400, "Expected"),
        ("[" * 100_000, "application/json", 400, "Expected"),
        (b"nothing", "image/jpeg", 400, "decodes at: 0"),
        (
            instances(b"", encoded(photo(), "PNG"), b"x"),
            "application/json",
            400,
            "decodes at: 0, 2",
        ),
        (instances(*[b"x"] * 33), "application/json", 413, "more than 32"),
        (
            '{"instances": [' + "{}," * 100_000 + "{}]}",
            *("application/json", 413, "more than 32"),
        ),
        (
            '{"signature_name": "features", "instances": [{"b64": "eA=="}]}',
            *("application/json", 400, "no signature 'features'"),
        ),
        (b"x" * (33 << 20), "image/jpeg", 413, "Send fewer"),
    ],
)
def test_what_makes_no_sense_is_refused(server, body, kind, status, message):
    try:
        found, answer = ask(server, "POST", PREDICT, body, kind)
    except ConnectionError:  # It does not read what is too large to its end.
        assert status == 413
    else:
        assert found == status
        assert message in json.loads(answer)["error"]
    assert ask(server, "GET", "/healthz") == (200, b"ok")


def test_other_addresses(server):
    status, body = ask(server, "GET", "/v1/models/model")
    states = json.loads(body)["model_version_status"]
    assert (status, states[0]["state"]) == (200, "AVAILABLE")
    status, body = ask(server, "GET", "/v1/models/model/metadata")
    assert json.loads(body)["classes"] == list(NAMES)
    assert json.loads(body)["source"] == "a test"
    ask(server, "POST", PREDICT, encoded(photo(), "PNG"), "image/png")
    status, body = ask(server, "GET", "/metrics")
    counted = re.search(rb'requests_total\{status="200"\} ([\d.]+)', body)
    assert float(counted[1]) >= 1
    assert b"batch_pictures_bucket" in body
    assert ask(server, "GET", "/nowhere")[0] == 404
    # A page whose name is made to mean this machine reads nothing here.
    assert ask(server, "GET", "/", Host="evil.example:80")[0] == 400
    assert ask(server, "GET", "/", Host=f"localhost:{server}")[0] == 200
    assert ask(server, "GET", PREDICT)[0] == 405


@pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver"
)
def test_a_picture_dropped_on_the_page_is_answered(server, saved, tmp_path):
    picture = tmp_path / "picture.jpg"
    picture.write_bytes(encoded(photo(), "JPEG"))
    (expected,) = framework.load(saved).predict(picture)
    options = Options()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options, Service(DRIVER))
    try:
        browser.get(f"http://127.0.0.1:{server}/")
        field = browser.find_element(By.CSS_SELECTOR, "input[type=file]")
        for drop in (False, True):
            if drop:
                # What a mouse does can't be done without one.
                browser.execute_script(
                    """
                    const files = new DataTransfer();
                    files.items.add(arguments[0].files[0]);
                    document.querySelector("output").replaceChildren();
                    document.querySelector(".drop").dispatchEvent(
                        new DragEvent("drop", {
                            dataTransfer: files, bubbles: true}));
                    """,
                    field,
                )
            else:
                field.send_keys(str(picture))
            for _ in range(100):
                found = browser.find_elements(By.CSS_SELECTOR, "output dt")
                if found:
                    break
                time.sleep(0.1)
            assert found[0].text == expected.class_name
            chance = browser.find_element(By.CSS_SELECTOR, "output dd").text
            assert chance.startswith(f"{100 * expected.probability:.1f} %")
        field.send_keys(str(pathlib.Path(__file__)))
        for _ in range(100):
            error = browser.find_elements(By.CSS_SELECTOR, "output .error")
            if error:
                break
            time.sleep(0.1)
        assert "decodes" in error[0].text
        errors = browser.get_log("browser")
        assert [line for line in errors if "400" not in line["message"]] == []
    finally:
        browser.quit()


def test_many_at_a_time_get_their_own_answers(server, saved):
    pictures = kinds()
    expected = [
        json.loads(ask(server, "POST", PREDICT, data, "image/jpeg")[1])[
            "predictions"
        ][0]["probabilities"]
        for data in pictures
    ]

    def one(number):
        which = number % len(pictures)
        data = b"nothing" if number % 10 == 9 else pictures[which]
        status, body = ask(server, "POST", PREDICT, data, "image/jpeg")
        if number % 10 == 9:
            return status == 400
        found = json.loads(body)["predictions"][0]["probabilities"]
        return np.allclose(found, expected[which], atol=1e-5)

    with concurrent.futures.ThreadPoolExecutor(32) as clients:
        assert all(clients.map(one, range(400)))


def test_told_to_stop_it_answers_what_it_has_accepted(saved):
    """Sixteen requests of eight large pictures each are under way."""
    large = encoded(photo(6000, 3000), "PNG")
    body = instances(*[large] * 2)
    with served(saved) as (process, port):
        with concurrent.futures.ThreadPoolExecutor(16) as clients:
            answers = [
                clients.submit(ask, port, "POST", PREDICT, body)
                for _ in range(16)
            ]
            for _ in range(500):
                metrics = ask(port, "GET", "/metrics")[1]
                found = re.search(rb"requests_under_way ([\d.]+)", metrics)
                if float(found[1]) == 16:
                    break
                time.sleep(0.01)
            assert float(found[1]) == 16
            process.send_signal(signal.SIGTERM)
            statuses = [answer.result()[0] for answer in answers]
        assert statuses == [200] * 16
        process.wait(timeout=60)
        with pytest.raises(OSError):
            ask(port, "GET", "/healthz")


def test_bodies_have_room_together(saved):
    """Three clients hold back the end of their bodies; a fourth is refused."""
    model = framework.load(saved)
    limits = Limits(held_bytes=3000, body_bytes=2000, seconds=0.5)

    async def call(app, chunks):
        sent = []
        waiting = iter(chunks)

        async def receive():
            part = next(waiting, None)
            if part is None:
                await asyncio.sleep(60)
            return {"type": "http.request", "body": part, "more_body": True}

        async def send(message):
            sent.append(message)

        scope = {
            "type": "http",
            "method": "POST",
            "path": PREDICT,
            "headers": [(b"content-type", b"image/jpeg"), (b"host", b"x")],
            "query_string": b"",
        }
        await app(scope, receive, send)
        return sent[0]["status"]

    async def main():
        app = application(model, limits)
        slow = [asyncio.create_task(call(app, [b"x" * 1000])) for _ in range(3)]
        await asyncio.sleep(0.1)
        fourth = await call(app, [b"x" * 10])
        # Whoever is too slow gives its room back.
        first = [await task for task in slow]
        fifth = await call(app, [b"x" * 1500, b"x" * 1500])
        return fourth, first, fifth

    assert asyncio.run(main()) == (503, [408, 408, 408], 413)


def run_batcher(make, **options):
    async def main():
        batcher = Batcher(
            options.pop("probabilities"), SIZE, "squash", **options
        )
        batcher.start()
        try:
            return await make(batcher)
        finally:
            await batcher.stop()

    return asyncio.run(main())


def slow(images):
    time.sleep(0.05)
    return images.reshape(len(images), -1)[:, :2].astype(np.float32)


def test_too_much_at_a_time_is_refused_and_the_rest_is_right():
    data = [
        tf.io.encode_png(np.full((SIZE, SIZE, 3), n, np.uint8)).numpy()
        for n in range(20)
    ]
    sizes = []

    async def make(batcher):
        batcher.sizes = sizes.append
        return await asyncio.gather(
            *(batcher.ask([d]) for d in data), return_exceptions=True
        )

    found = run_batcher(make, probabilities=slow, largest=4, waiting=8)
    refused = [isinstance(each, Overloaded) for each in found]
    assert sum(refused) == 12
    for number, answer in enumerate(found[:8]):
        assert answer.tolist() == [[number, number]]
    # In batches, and in no more than there have to be.
    assert sum(sizes) == 8 and max(sizes) == 4 and len(sizes) <= 4


def test_a_broken_picture_costs_its_neighbours_nothing():
    good = encoded(photo(), "PNG")

    async def make(batcher):
        return await asyncio.gather(
            batcher.ask([good]),
            batcher.ask([b"nothing"]),
            batcher.ask([good, b""]),
            return_exceptions=True,
        )

    one, broken, half = run_batcher(make, probabilities=slow)
    assert one.shape == (1, 2)
    assert isinstance(broken, Broken) and "at: 0." in str(broken)
    assert isinstance(half, Broken) and "at: 1." in str(half)


def test_whoever_waits_too_long_leaves_nothing_behind():
    good = encoded(photo(), "PNG")
    asked = []

    def counting(images):
        asked.append(len(images))
        return slow(images)

    async def make(batcher):
        del asked[:]
        first = asyncio.create_task(batcher.ask([good]))
        await asyncio.sleep(0.02)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.01):
                await batcher.ask([good] * 3)
        await first
        return await batcher.ask([good] * 4)

    found = run_batcher(make, probabilities=counting, waiting=4)
    assert found.shape == (4, 2)
    assert sum(asked) <= 1 + 3 + 4


def test_an_error_of_the_model_is_everybodys():
    def failing(images):
        if images.any():
            raise RuntimeError("no memory")
        return np.zeros((len(images), 2), np.float32)

    async def make(batcher):
        with pytest.raises(RuntimeError, match="no memory"):
            await batcher.ask([encoded(photo(), "PNG")])
        return True

    assert run_batcher(make, probabilities=failing)


def test_mistakes(saved, tmp_path, server):
    with pytest.raises(UserError, match="holds no run"):
        serve(tmp_path)
    with pytest.raises(UserError, match="--port is 70000"):
        serve(saved, port=70000)
    with pytest.raises(UserError, match="can't be listened on"):
        serve(saved, port=server)
