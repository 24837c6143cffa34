"""Turns web addresses into whether they can be reached, within seconds."""

import socket
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterable

_PORTS = {"http": 80, "https": 443, "ftp": 21, "gs": 443}
# The host behind a scheme that names a bucket and not a host.
_BUCKET_HOSTS = {"gs": "storage.googleapis.com"}


def unreachable(urls: Iterable[str], timeout: float = 5.0) -> str | None:
    """Tries to connect to the hosts of `urls`, through a proxy if one is set.

    Nothing is asked for and nothing is downloaded: it is for failing within
    seconds where a downloader would retry for minutes. The environment
    variables `http_proxy`, `https_proxy` and `no_proxy` (or in capitals) are
    heeded: what is tried is then the proxy.

    Args:
        urls: addresses; each host is tried once.
        timeout: seconds for all of them together.

    Returns:
        None if all can be reached, else the reason: the host and the error.
    """
    addresses = list(dict.fromkeys(_where(url) for url in urls))
    reasons: list[str] = []
    # In a thread, since looking up a name knows no timeout.
    thread = threading.Thread(
        target=_try, args=(addresses, timeout, reasons), daemon=True
    )
    thread.start()
    thread.join(timeout)
    if thread.is_alive():
        hosts = ", ".join(host for host, _ in addresses)
        return f"no answer from {hosts} within {timeout:g} s"
    return reasons[0] if reasons else None


def _try(
    addresses: Iterable[tuple[str, int]], timeout: float, reasons: list[str]
) -> None:
    """Adds to `reasons` why one of `addresses` cannot be connected to."""
    end = time.monotonic() + timeout
    for host, port in addresses:
        try:
            left = max(end - time.monotonic(), 0.01)
            socket.create_connection((host, port), left).close()
        except (OSError, UnicodeError) as error:
            reasons.append(f"{host}:{port}: {error or type(error).__name__}")
            return


def reachable(urls: Iterable[str], timeout: float = 5.0) -> bool:
    """Whether all hosts of `urls` can be connected to; see `unreachable`."""
    return unreachable(urls, timeout) is None


def _where(url: str) -> tuple[str, int]:
    """The host and port to connect to for `url`; a proxy's if one is set."""
    parts = urllib.parse.urlsplit(url)
    scheme = parts.scheme.lower()
    host = _BUCKET_HOSTS.get(scheme, parts.hostname or "")
    if host and not urllib.request.proxy_bypass(host):
        proxies = urllib.request.getproxies()
        asked_for = "https" if scheme == "gs" else scheme
        proxy = proxies.get(asked_for) or proxies.get("all")
        if proxy:
            # "proxy:3128" is as usual as "http://proxy:3128".
            proxy = proxy if "://" in proxy else f"http://{proxy}"
            parts = urllib.parse.urlsplit(proxy)
            scheme, host = parts.scheme.lower(), parts.hostname or ""
    try:
        port = parts.port
    except ValueError:  # Not a number.
        port = None
    return host, port or _PORTS.get(scheme, 443)
