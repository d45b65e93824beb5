"""The server's routes: nnInteractive's protocol for clients, and the page for browsers.

The routes are our own, on the public functions of `nninteractive-client` that pack arrays (`wire`). nnInteractive's
own app would have to be patched: it makes its sessions itself, calls their private methods, needs the whole of
nnInteractive on the server, and reads bodies of any size into memory.

Every request passes the `Gate` first. All that a request needs is read and checked in the event loop; what takes time
is done in a thread, one for each session at most; what runs the network is done on the pool's device.
"""

import asyncio
import functools
import importlib.util
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from sam3d_nnunet import __version__
from sam3d_nnunet.errors import SAM3DError, last_line
from sam3d_nnunet.prediction.image_session import NotReady
from sam3d_nnunet.prediction.session import SAM3DSession
from sam3d_nnunet.serve import wire
from sam3d_nnunet.serve.limits import JSON_BYTES, Body, Door, Gate, Refused
from sam3d_nnunet.serve.pool import SessionPool

SWEEP = 5.0  # seconds between looks for sessions that have expired
MOST_WAITING = 8  # requests of one client at a time
PAGE = "sam3d_nnunet.serve.page"


@dataclass(frozen=True)
class ServerOptions:
    """What the server allows.

    Attributes:
        door: who may come in, and how large arrays may be.
        images: folders whose images the page offers.
    """

    door: Door = field(default_factory=Door)
    images: Sequence[Path] = ()


def create_app(pool: SessionPool, options: ServerOptions | None = None) -> FastAPI:
    """The server as an ASGI app. The pool is closed when the app ends.

    Args:
        pool: of sessions.
        options: what is allowed.
    """
    options = options or ServerOptions()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        sweeper = asyncio.create_task(_sweep(pool))
        yield
        sweeper.cancel()
        with suppress(asyncio.CancelledError):
            await sweeper
        pool.close()

    # FastAPI's pages about itself would load scripts from other hosts
    app = FastAPI(
        title="sam3d serve",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
    )
    app.add_middleware(Gate, door=options.door)
    app.add_exception_handler(SAM3DError, _sentence)
    app.add_exception_handler(HTTPException, _unknown)
    Protocol(pool, options.door.largest).register(app)
    register_page(app, pool, options)
    return app


def register_page(app: FastAPI, pool: SessionPool, options: ServerOptions) -> None:
    """Serve the page at `/`, if it was installed."""
    if importlib.util.find_spec(PAGE) is not None:
        app.include_router(importlib.import_module(PAGE).router(pool, options.images, options.door.largest))
        return

    @app.get("/")
    async def missing() -> Response:
        return PlainTextResponse("sam3d serve is running for clients. This installation has no page for browsers.")


class Protocol:
    """nnInteractive's protocol."""

    def __init__(self, pool: SessionPool, largest: int) -> None:
        """
        Args:
            pool: of sessions.
            largest: bytes of an image, unpacked.
        """
        self.pool = pool
        self.largest = largest
        self.capabilities = wire.capabilities(pool.example)

    def register(self, app: FastAPI) -> None:
        """Add all routes to an app."""
        for path in ("healthz", "capabilities", "lease_status"):
            app.add_api_route(f"/{path}", getattr(self, f"_{path}"), methods=["GET"])
        for path in ("claim", "release", "heartbeat"):
            app.add_api_route(f"/{path}", getattr(self, f"_{path}"), methods=["POST"])
        for path, action in {
            "set_image": self._set_image,
            "set_target_buffer": self._set_target_buffer,
            "set_do_autozoom": self._set_do_autozoom,
            "reset_interactions": self._reset_interactions,
            "undo": self._undo,
            "predict": self._predict,
            "add_point_interaction": self._add_point,
            "add_bbox_interaction": self._add_bbox,
            "add_scribble_interaction": functools.partial(self._add_drawn, "scribble"),
            "add_lasso_interaction": functools.partial(self._add_drawn, "lasso"),
            "add_initial_seg_interaction": self._add_initial_seg,
        }.items():
            app.add_api_route(f"/{path}", self._in_turn(action), methods=["POST"])

    # --- leases ---

    async def _healthz(self) -> dict:
        return {"ok": True}

    async def _capabilities(self) -> dict:
        return self.capabilities

    async def _claim(self) -> dict:
        token = self.pool.claim()
        options = self.pool.options
        return {
            "lease_token": token,
            "idle_timeout_seconds": options.idle_timeout,
            "liveness_timeout_seconds": options.liveness_timeout,
            "max_sessions": options.sessions,
        }

    async def _release(self, request: Request) -> dict:
        self.pool.release(request.headers.get(wire.LEASE))
        return {"released": True}

    async def _heartbeat(self, request: Request) -> dict:
        token = request.headers.get(wire.LEASE)
        self.pool.lease(token)
        return {"remaining_seconds": self.pool.remaining(token)}

    async def _lease_status(self, request: Request) -> dict:
        remaining = self.pool.remaining(request.headers.get(wire.LEASE))
        return {"remaining_seconds": remaining, "idle_timeout_seconds": self.pool.options.idle_timeout}

    # --- actions: each reads its request, and returns what is to be done with the session ---

    def _in_turn(self, action: Callable[..., Any]) -> Callable[..., Any]:
        """A route that does one action of a client after the other."""

        async def route(request: Request) -> Response:
            token = request.headers.get(wire.LEASE)
            with self.pool.hold(token) as lease:
                if lease.waiting >= MOST_WAITING:
                    raise Refused(
                        429, f"{MOST_WAITING} requests of this session are waiting already. Wait for answers."
                    )
                lease.waiting += 1
                try:
                    async with lease.turn:
                        work = await action(request, lease.session)
                        return await run_in_threadpool(self._do, token, work)
                finally:
                    lease.waiting -= 1

        return route

    def _do(self, token: str, work: Callable[[SAM3DSession], Any]) -> Response:
        with self.pool.use(token) as session:
            try:
                found = work(session)
            except NotReady as e:
                raise Refused(409, str(e)) from None
            return found if isinstance(found, Response) else JSONResponse(found or {})

    async def _set_image(self, request: Request, session: SAM3DSession) -> Callable:
        asked = wire.parsed(wire.ImageRequest, request.headers.get(wire.META))
        token = request.headers.get(wire.LEASE)
        packed = await wire.read_array(Body(request, self.largest), self.largest, name="image")

        def work(session: SAM3DSession) -> dict:
            image = wire.unpack(*packed)
            try:
                session.set_image(image, asked.image_properties or {})
            except SAM3DError:
                raise
            except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as e:
                raise Refused(422, f"The image_properties can't be used ({last_line(e)}). Send a spacing.") from None
            self.pool.embed_ahead(token)
            return {"original_image_shape": list(session.original_image_shape)}

        return work

    async def _set_target_buffer(self, request: Request, session: SAM3DSession) -> Callable:
        asked = await self._json(wire.BufferRequest, request)
        if asked.dtype not in wire.TYPES:
            raise Refused(415, f"The target buffer has the type {asked.dtype!r}. Take uint8.")
        shape = _image_shape(session)
        if tuple(asked.shape) != shape:
            raise Refused(422, f"The target buffer has the shape {list(asked.shape)}, but the image has {list(shape)}.")
        return lambda session: session.set_target_buffer(np.zeros(asked.shape, asked.dtype))

    async def _set_do_autozoom(self, request: Request, session: SAM3DSession) -> Callable:
        asked = await self._json(wire.AutozoomRequest, request)
        return lambda session: session.set_do_autozoom(asked.do_autozoom)

    async def _reset_interactions(self, request: Request, session: SAM3DSession) -> Callable:
        await Body(request, JSON_BYTES).all()
        return lambda session: session.reset_interactions()

    async def _undo(self, request: Request, session: SAM3DSession) -> Callable:
        await Body(request, JSON_BYTES).all()

        def work(session: SAM3DSession) -> Response:
            undone = session.undo()
            return wire.mask_part(session, undone)

        return work

    async def _predict(self, request: Request, session: SAM3DSession) -> Callable:
        asked = await self._json(wire.PredictRequest, request)

        def work(session: SAM3DSession) -> Response:
            self.pool.on_device(lambda: session._predict(asked.force_full_refine))
            return wire.mask_part(session, session._touched is not None)

        return work

    async def _add_point(self, request: Request, session: SAM3DSession) -> Callable:
        asked = await self._json(wire.PointRequest, request)
        token = request.headers.get(wire.LEASE)

        def work(session: SAM3DSession) -> Response:
            answer = self._interact(
                session,
                lambda: session.add_point_interaction(
                    asked.coordinates, asked.include_interaction, run_prediction=asked.run_prediction
                ),
                asked.run_prediction,
            )
            self.pool.embed_ahead(token, asked.coordinates)
            return answer

        return work

    async def _add_bbox(self, request: Request, session: SAM3DSession) -> Callable:
        asked = await self._json(wire.BoxRequest, request)
        return lambda session: self._interact(
            session,
            lambda: session.add_bbox_interaction(
                _lists(asked.bbox_coords), asked.include_interaction, run_prediction=asked.run_prediction
            ),
            asked.run_prediction,
        )

    async def _add_drawn(self, kind: str, request: Request, session: SAM3DSession) -> Callable:
        asked = wire.parsed(wire.DrawnRequest, request.headers.get(wire.META))
        shape, box = _image_shape(session), asked.interaction_bbox
        body = Body(request, self.largest)
        if box is not None:
            shape = tuple(round(high) - round(low) for low, high in box)
        packed = await wire.read_array(body, self.largest, shape, kind)

        def work(session: SAM3DSession) -> Response:
            add = getattr(session, f"add_{kind}_interaction")
            drawn = wire.unpack(*packed)
            return self._interact(
                session,
                lambda: add(
                    drawn,
                    asked.include_interaction,
                    run_prediction=asked.run_prediction,
                    interaction_bbox=None if box is None else _lists(box),
                ),
                asked.run_prediction,
            )

        return work

    async def _add_initial_seg(self, request: Request, session: SAM3DSession) -> Callable:
        asked = wire.parsed(wire.InitialRequest, request.headers.get(wire.META))
        packed = await wire.read_array(Body(request, self.largest), self.largest, _image_shape(session), "mask")

        def work(session: SAM3DSession) -> Response:
            mask = wire.unpack(*packed)
            self._run(
                lambda: session.add_initial_seg_interaction(mask, run_prediction=asked.run_prediction),
                asked.run_prediction,
            )
            # the client has copied the mask into its own buffer: what is otherwise here, it must hear of
            return wire.mask_part(session, asked.run_prediction or session._last_paste_bbox is not None)

        return work

    def _interact(self, session: SAM3DSession, add: Callable[[], Any], predicts: bool) -> Response:
        self._run(add, predicts)
        return wire.mask_part(session, predicts)

    def _run(self, add: Callable[[], Any], predicts: bool) -> Any:
        return self.pool.on_device(add) if predicts else add()

    @staticmethod
    async def _json(kind: type[wire.M], request: Request) -> wire.M:
        return wire.parsed(kind, await Body(request, JSON_BYTES).all())


def _image_shape(session: SAM3DSession) -> tuple[int, ...]:
    """Voxels of the image, without channels.

    Raises:
        Refused: there is none.
    """
    if session.original_image_shape is None:
        raise Refused(409, "There is no image yet: set the image first.")
    return tuple(session.original_image_shape[1:])


def _lists(box: wire.Box) -> list[list[float]]:
    return [list(ends) for ends in box]


async def _sweep(pool: SessionPool) -> None:
    while True:
        await asyncio.sleep(SWEEP)
        pool.sweep()


async def _sentence(_: Request, error: SAM3DError) -> Response:
    """The answer to a mistake. The status, and with it the reason phrase, says what kind it is."""
    status = getattr(error, "status", 422)
    headers = {"Retry-After": "10"} if status == 503 else {}
    return JSONResponse({"detail": str(error)}, status, headers)


async def _unknown(request: Request, error: HTTPException) -> Response:
    path = request.url.path[:100]
    detail = f"This server has no {request.method} {path}." if error.status_code in (404, 405) else str(error.detail)
    return JSONResponse({"detail": detail}, error.status_code, error.headers)
