"""Turns a loaded model into a web application that answers for pictures.

    GET  /                            a page to drop a picture on
    GET  /v1/models/NAME              whether it is ready, as TensorFlow Serving
    GET  /v1/models/NAME/metadata     what the artifact says of itself
    POST /v1/models/NAME:predict      {"instances": [{"b64": "..."}, ...]}
    GET  /healthz                     200 while it takes requests
    GET  /metrics                     for Prometheus

The format of requests and answers is that of TensorFlow Serving's REST API for
the signature serve_bytes (https://www.tensorflow.org/tfx/serving/api_rest):
instances are {"b64": ...} or {"image_bytes": {"b64": ...}}, predictions have
probabilities, label and class. A body of type image/... is one picture.
"""

import asyncio
import base64
import binascii
import concurrent.futures
import contextlib
import dataclasses
import json
import os
import time
from collections.abc import AsyncIterator, Sequence

import numpy as np
import prometheus_client
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from framework.inference.loaded import Loaded
from framework.pages import template
from framework.serving.batching import Batcher, Broken, Overloaded

MODEL = "model"
_SIGNATURES = ("serving_default", "serve_bytes")
_TEMPLATE = os.path.join(os.path.dirname(__file__), "page.html.j2")


@dataclasses.dataclass(frozen=True)
class Limits:
    """What one request, and all of them together, may ask for.

    Attributes:
        body_bytes: of a request; base64 takes a third more than the pictures.
        pictures: of a request.
        seconds: until it is answered, decoding and waiting included.
        waiting: pictures under way at a time.
        held_bytes: of all bodies at a time.
    """

    body_bytes: int = 32 << 20
    pictures: int = 32
    seconds: float = 30.0
    waiting: int = 256
    held_bytes: int = 256 << 20


class _Refused(Exception):
    """A request that is not answered: a status, and why."""

    def __init__(self, status: int, why: str):
        super().__init__(why)
        self.status = status


def application(
    model: Loaded,
    limits: Limits = Limits(),
    name: str = MODEL,
    hosts: Sequence[str] = ("*",),
) -> Starlette:
    """The web application.

    Args:
        model: to ask.
        limits: of requests.
        name: of the model, in addresses.
        hosts: names by which it may be called, "*" for any. A page from
            elsewhere, whose name is made to mean this machine, is none.
    """
    server = _Server(model, limits, name)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        server.batcher.start()
        server.is_ready = True
        yield
        server.is_ready = False
        await server.batcher.stop()

    base = f"/v1/models/{name}"
    return Starlette(
        routes=[
            Route("/", server.page),
            Route(base, server.status),
            Route(f"{base}/metadata", server.metadata),
            Route(f"{base}:predict", server.predict, methods=["POST"]),
            Route("/healthz", server.health),
            Route("/metrics", server.metrics),
        ],
        middleware=[
            Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts))
        ],
        lifespan=lifespan,
    )


class _Server:
    def __init__(self, model: Loaded, limits: Limits, name: str):
        self._model, self._limits, self._name = model, limits, name
        self.is_ready = False
        self._held = 0
        # One at a time: megabytes of text become many more of objects.
        self._reading = concurrent.futures.ThreadPoolExecutor(1)
        self.batcher = Batcher(
            model.probabilities,
            model.image_size,
            model.resize,
            waiting=limits.waiting,
        )
        self._registry = prometheus_client.CollectorRegistry()
        self._requests = prometheus_client.Counter(
            "requests", "By status", ["status"], registry=self._registry
        )
        self._pictures = prometheus_client.Counter(
            "pictures", "Answered", registry=self._registry
        )
        self._seconds = prometheus_client.Histogram(
            "request_seconds", "Until answered", registry=self._registry
        )
        self._under_way = prometheus_client.Gauge(
            "requests_under_way", "Not answered yet", registry=self._registry
        )
        sizes = prometheus_client.Histogram(
            "batch_pictures",
            "Of a batch",
            buckets=(1, 2, 4, 8, 16, 32),
            registry=self._registry,
        )
        self.batcher.sizes = sizes.observe

    async def page(self, request: Request) -> Response:
        return HTMLResponse(
            template(_TEMPLATE).render(
                model=self._model, name=self._name, limits=self._limits
            )
        )

    async def status(self, request: Request) -> Response:
        state = "AVAILABLE" if self.is_ready else "UNLOADING"
        return JSONResponse(
            {"model_version_status": [{"version": "1", "state": state}]}
        )

    async def metadata(self, request: Request) -> Response:
        return JSONResponse(
            {
                **self._model.facts,
                "classes": self._model.class_names,
                "image_size": self._model.image_size,
                "resize": self._model.resize,
            }
        )

    async def health(self, request: Request) -> Response:
        ready = self.is_ready
        return Response("ok" if ready else "ending", 200 if ready else 503)

    async def metrics(self, request: Request) -> Response:
        return Response(
            prometheus_client.generate_latest(self._registry),
            media_type=prometheus_client.CONTENT_TYPE_LATEST,
        )

    async def predict(self, request: Request) -> Response:
        began = time.monotonic()
        held = _Held(self)
        self._under_way.inc()
        try:
            # What is sent slowly counts, too.
            async with asyncio.timeout(self._limits.seconds):
                answer = await self._answer(request, held)
            status, headers = 200, {}
            self._seconds.observe(time.monotonic() - began)
        except _Refused as refused:
            status, headers = refused.status, {}
            answer = {"error": str(refused)}
        except Broken as broken:
            status, headers, answer = 400, {}, {"error": str(broken)}
        except (Overloaded, TimeoutError) as error:
            status, headers = 503, {"Retry-After": "1"}
            answer = {"error": "There is too much to do. Try again later."}
            if isinstance(error, TimeoutError) and not held.is_whole:
                status, headers = 408, {}
                answer = {"error": "The body came too slowly. Send it again."}
        except ClientDisconnect:
            status, headers, answer = 499, {}, {}
        finally:
            held.give_back()
            self._under_way.dec()
        self._requests.labels(str(status)).inc()
        return JSONResponse(answer, status, headers)

    async def _answer(self, request: Request, held: "_Held") -> dict:
        body = await self._body(request, held)
        kind = request.headers.get("content-type", "").split(";")[0].strip()
        if kind.startswith("image/") or kind == "application/octet-stream":
            pictures = [body]
        else:
            # Megabytes of text: others need not wait meanwhile.
            loop = asyncio.get_running_loop()
            pictures = await loop.run_in_executor(
                self._reading, self._instances, body
            )
        found = await self.batcher.ask(pictures)
        if not np.isfinite(found).all():
            raise _Refused(500, "The model answers with what is no number.")
        self._pictures.inc(len(pictures))
        names = self._model.class_names
        return {
            "predictions": [
                {
                    "probabilities": [round(float(p), 9) for p in row],
                    "label": int(row.argmax()),
                    "class": names[int(row.argmax())],
                }
                for row in found
            ]
        }

    async def _body(self, request: Request, held: "_Held") -> bytes:
        most = self._limits.body_bytes
        too_large = _Refused(
            413, f"The body has more than {most:,} bytes. Send fewer pictures."
        )
        said = request.headers.get("content-length", "0")
        if not said.isdigit() or int(said) > most:
            raise too_large
        parts, size = [], 0
        async for part in request.stream():
            size += len(part)
            if size > most:
                raise too_large
            held.take(len(part))
            parts.append(part)
        held.is_whole = True
        return b"".join(parts)

    def _instances(self, body: bytes) -> list[bytes]:
        most = self._limits.pictures
        # Before it becomes objects: an instance has two braces at most.
        if body.count(b"{") > 2 * most + 1:
            raise _Refused(
                413,
                f"There are more than {most} instances. Send them in several "
                "requests.",
            )
        try:
            asked = json.loads(body)
            instances = asked["instances"]
            signature = asked.get("signature_name", _SIGNATURES[0])
            if not isinstance(instances, list) or not instances:
                raise ValueError
            pictures = [
                base64.b64decode(
                    each.get("image_bytes", each)["b64"], validate=True
                )
                for each in instances[: most + 1]
            ]
        except (
            *(ValueError, KeyError, TypeError, AttributeError),
            *(binascii.Error, RecursionError),
        ) as error:
            raise _Refused(
                400,
                'Expected {"instances": [{"b64": "<a picture file in '
                'base64>"}]}, or one picture file with a Content-Type of '
                "image/...",
            ) from error
        if len(pictures) > most:
            raise _Refused(
                413,
                f"There are more than {most} instances. Send them in several "
                "requests.",
            )
        if signature not in _SIGNATURES:
            raise _Refused(
                400,
                f"There is no signature {str(signature)[:40]!r} here. Expected "
                f"{' or '.join(_SIGNATURES)}; TensorFlow Serving has all.",
            )
        return pictures


class _Held:
    """How much of the room for bodies one request has taken."""

    def __init__(self, server: _Server):
        self._server = server
        self._bytes = 0
        self.is_whole = False

    def take(self, count: int) -> None:
        if self._server._held + count > self._server._limits.held_bytes:
            raise Overloaded
        self._server._held += count
        self._bytes += count

    def give_back(self) -> None:
        self._server._held -= self._bytes
        self._bytes = 0
