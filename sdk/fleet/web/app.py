"""The app: its routes, its bounds, and a description of itself that is true."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from fastapi import FastAPI, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import TypeAdapter
from starlette.types import ASGIApp, Receive, Scope, Send

from agent.errors import SlipwayError
from agent.updates.trust import MANIFEST_BYTES
from agent.updates.wire import MOST_BODY_BYTES
from sdk.fleet.database import reading, revision_of
from sdk.fleet.publication import MOST_BLOB_BYTES
from sdk.fleet.refusals import RefusedError
from sdk.fleet.server import Server
from sdk.fleet.web import (
    admin_access,
    admin_devices,
    admin_publication,
    admin_rollouts,
    device_api,
    repository,
)
from sdk.fleet.web.bounds import SLOW_S, Bounds
from sdk.fleet.web.desk import Desk
from sdk.fleet.web.errors import RETRY_S, handle_errors, responses
from sdk.fleet.web.lane import Lane
from sdk.fleet.web.limits import Limits
from sdk.fleet.web.metrics import Counted, Metrics
from sdk.fleet.web.signed import Nonces

_ROUTES = (
    device_api,
    repository,
    admin_access,
    admin_devices,
    admin_publication,
    admin_rollouts,
)
_NEVER = ("HTTPValidationError", "ValidationError")
"""Bodies that FastAPI describes, and that no route here answers."""


def make_app(server: Server, *, slow_s: float = SLOW_S) -> FastAPI:
    """The app of one process."""
    app = _App(
        title="Slipway fleet",
        version=version("slipway-sdk"),
        description="Enrol devices, assign releases, know what runs.",
        redoc_url=None,
    )
    app.state.server = server
    app.state.nonces = Nonces(server.nonce_secret)
    app.state.limits = Limits(
        enrolments_per_minute=server.settings.enrolments_per_minute,
        admin_per_minute=server.settings.admin_per_minute,
    )
    for routes in _ROUTES:
        app.include_router(routes.router)
    _health(app)
    handle_errors(app)
    app.openapi = lambda: _described(app)  # type: ignore[method-assign]
    metrics = app.state.metrics = Metrics(server)
    app.add_middleware(_bounded, slow_s=slow_s)
    app.add_middleware(Counted, metrics=metrics)
    app.lane = Lane(server, app.state.nonces, metrics, slow_s)
    return app


class _App(FastAPI):
    """FastAPI with a lane for polls beside it."""

    lane: Lane

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, by one of the two."""
        if self.lane.takes(scope):
            await self.lane(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


def _bounded(app: ASGIApp, *, slow_s: float) -> ASGIApp:
    return Bounds(app, _most_bytes, slow_s)


def _most_bytes(path: str) -> int:
    """How long a body may be: only publishers send long ones."""
    if path.startswith("/v1/admin/blobs/"):
        return MOST_BLOB_BYTES
    long = path.startswith("/v1/admin/manifests/") or path == "/v1/admin/changes"
    return 8 * MANIFEST_BYTES if long else MOST_BODY_BYTES


def _health(app: FastAPI) -> None:
    @app.get("/healthz", tags=["operation"])
    async def healthz() -> dict[str, bool]:
        """Whether this process is alive."""
        return {"alive": True}

    @app.get("/readyz", tags=["operation"], responses=responses(503))
    def readyz(server: Desk) -> dict[str, Any]:
        """Whether this process can answer devices: its database and its repositories are there."""
        try:
            with reading(server.engine) as connection:
                revision = revision_of(connection)
        except SlipwayError as error:
            raise _not_ready(error.what) from error
        lacking = [name for name, one in server.tenants.items() if one.timestamp_version() is None]
        if lacking:
            raise _not_ready(f"The repository of {', '.join(lacking)} cannot be read.")
        return {"ready": True, "revision": revision}

    @app.get(
        "/metrics",
        tags=["operation"],
        response_class=Response,
        responses={200: {"content": {"text/plain": {}}}},
    )
    def metrics(request: Request) -> Response:
        """Numbers for Prometheus, of this process and of all devices together."""
        content = generate_latest(request.app.state.metrics.registry)
        return Response(content, media_type=CONTENT_TYPE_LATEST)


def _not_ready(what: str) -> RefusedError:
    return RefusedError("down", what, retry_after_s=RETRY_S)


def _described(app: FastAPI) -> dict[str, Any]:
    """OpenAPI, with the bodies that routes read themselves, and without what never happens."""
    if app.openapi_schema is None:
        found = FastAPI.openapi(app)
        schemas = found["components"]["schemas"]
        for body in device_api.BODIES:
            told = TypeAdapter(body).json_schema(ref_template="#/components/schemas/{model}")
            schemas.update(told.pop("$defs", {}))
            schemas[body.__name__] = told
        for name in _NEVER:
            schemas.pop(name, None)
        for path in found["paths"].values():
            for operation in path.values():
                answers = operation["responses"]
                told = answers.get("422", {}).get("content", {}).get("application/json", {})
                if "HTTPValidationError" in str(told):
                    del answers["422"]  # what is malformed is answered with 400
        app.openapi_schema = found
    return app.openapi_schema
