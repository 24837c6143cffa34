"""Reachable or not, and how fast that is known; nothing leaves 127.0.0.1."""

import contextlib
import socket
import time

import pytest

from framework.data import network


@pytest.fixture(autouse=True)
def no_proxy_set(monkeypatch):
    for name in ("http", "https", "all", "no"):
        monkeypatch.delenv(f"{name}_proxy", raising=False)
        monkeypatch.delenv(f"{name}_proxy".upper(), raising=False)


@contextlib.contextmanager
def listening():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


@pytest.fixture
def closed_port():
    with listening() as port:
        pass
    return port


def test_an_open_port_is_reachable():
    with listening() as port:
        assert network.unreachable([f"http://127.0.0.1:{port}/x"]) is None
        assert network.reachable([f"http://127.0.0.1:{port}/x"])


def test_a_closed_port_is_named_with_its_reason(closed_port):
    reason = network.unreachable([f"http://127.0.0.1:{closed_port}/x"])
    assert f"127.0.0.1:{closed_port}" in reason
    assert "refused" in reason
    assert not network.reachable([f"http://127.0.0.1:{closed_port}/x"])


def test_one_unreachable_host_is_enough(closed_port):
    with listening() as port:
        urls = [f"http://127.0.0.1:{p}/" for p in (port, closed_port)]
        assert not network.reachable(urls)


def test_nothing_to_reach_is_reachable():
    assert network.reachable([])


def test_the_proxy_is_what_is_tried(monkeypatch, closed_port):
    with listening() as port:
        url = f"https://example.invalid:{closed_port}/"
        monkeypatch.setenv("https_proxy", f"127.0.0.1:{port}")
        assert network.reachable([url])
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{closed_port}")
        assert not network.reachable([url])


def test_no_proxy_exempts_a_host(monkeypatch, closed_port):
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{closed_port}")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with listening() as port:
        assert network.reachable([f"http://127.0.0.1:{port}/"])


@pytest.mark.parametrize("slow", ["getaddrinfo", "create_connection"])
def test_silence_takes_no_longer_than_the_timeout(monkeypatch, slow):
    def wait(*_, **__):
        time.sleep(3)
        raise OSError("too late")

    monkeypatch.setattr(socket, slow, wait)
    start = time.monotonic()
    urls = ["http://a.invalid/", "http://b.invalid/"]
    reason = network.unreachable(urls, timeout=0.2)
    assert time.monotonic() - start < 1
    assert "0.2 s" in reason


def test_buckets_stand_for_their_host():
    assert network._where("gs://bucket/x") == ("storage.googleapis.com", 443)
    assert network._where("https://a.invalid/x") == ("a.invalid", 443)
    assert network._where("http://a.invalid:8080/") == ("a.invalid", 8080)
