"""The page of `sam3d serve` for people without a client: its files, and what it asks the server for.

`router` has the page at `/`, its files under `/page/assets/`, and its requests under `/page/`. Each request carries the
header `X-SAM3D-Page`, which pages of other sites can't send: browsers ask before, and get no permission.
"""

import shutil
from collections.abc import Callable, Iterable
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, Field

from sam3d_nnunet.datasets.case_files import image_name
from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.prediction.session import SAM3DSession
from sam3d_nnunet.serve.limits import Door, next_part, too_large
from sam3d_nnunet.serve.page_case import Interaction, PageCase, page_classes
from sam3d_nnunet.serve.page_clients import PageClient, PageClients
from sam3d_nnunet.serve.page_image import ENDINGS, ImageFolders, open_image
from sam3d_nnunet.serve.pool import SessionPool

HEADER = "X-SAM3D-Page"
MAX_BODY = 1 << 20  # bytes of a request, uploads apart: a long line
LARGEST = Door.largest  # bytes of an image
FILES = files("sam3d_nnunet.serve") / "page_files"
BUILT = "built"  # folder with what is made from packages of npm
VIEWER = "niivue.js"
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
SECURITY = {
    # WebGL needs nothing; NiiVue reads its font from data: and blob:
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data: blob:; connect-src 'self' data: blob:; "
    "worker-src 'self' blob:; object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
PRIVATE = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


class FolderImage(BaseModel):
    """An image in a folder of the server, as `/page/images` lists it."""

    model_config = ConfigDict(extra="forbid")

    folder: int
    name: str = Field(max_length=1000)


class _PageRoute(APIRoute):
    """Refuses requests of other sites and large bodies, and answers mistakes with their sentence."""

    def get_route_handler(self) -> Callable:
        handle = super().get_route_handler()

        async def answer(request: Request) -> Response:
            if not request.headers.get(HEADER) or request.headers.get("Sec-Fetch-Site") in ("cross-site", "same-site"):
                return _refusal(403, f"Only the page of this server may ask this (header {HEADER}).")
            if request.method == "POST" and not _has_small_body(request):
                return _refusal(413, f"The request is larger than {MAX_BODY} bytes, or doesn't tell its size.")
            try:
                return await handle(request)
            except RequestValidationError as e:
                return _refusal(422, f"The page asked for something that the server doesn't know: {_first(e)}.")
            except SAM3DError as e:
                return _refusal(getattr(e, "status", 400), str(e))

        return answer


def _has_small_body(request: Request) -> bool:
    size = request.headers.get("Content-Length", "" if "Transfer-Encoding" in request.headers else "0")
    return size.isdecimal() and int(size) <= MAX_BODY


def _first(error: RequestValidationError) -> str:
    """Where a request is wrong first, and how; not what it holds, which may be long."""
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc'][:4]))}: {first['msg']}"[:200]


def _refusal(status: int, sentence: str) -> JSONResponse:
    return JSONResponse({"detail": sentence}, status, headers=PRIVATE)


def _token(request: Request) -> str:
    return request.headers[HEADER]


Token = Annotated[str, Depends(_token)]


def has_viewer() -> bool:
    """Whether this installation has the page, which needs a package of npm."""
    return (FILES / BUILT / VIEWER).is_file()


def router(pool: SessionPool, image_folders: Iterable[str | Path] = (), largest: int = LARGEST) -> APIRouter:
    """Routes of the page.

    Args:
        pool: of the server.
        image_folders: with images that the page may open.
        largest: bytes of an image, as a file and unpacked.

    Raises:
        SAM3DError: one of the folders is no folder.
    """
    whole = APIRouter()
    whole.include_router(_file_routes())
    whole.include_router(_request_routes(PageClients(pool), ImageFolders(image_folders), largest), prefix="/page")
    return whole


def _file_routes() -> APIRouter:
    """The page itself. Its files are known by name, so that no path can lead elsewhere."""
    routes = APIRouter()
    known = {file.name: file for folder in (FILES, FILES / BUILT) if folder.is_dir() for file in folder.iterdir()}
    known = {name: file for name, file in known.items() if Path(name).suffix in TYPES}

    @routes.get("/", response_class=HTMLResponse, include_in_schema=False)
    def page() -> HTMLResponse:
        name = "index.html" if has_viewer() else "no_page.html"
        return HTMLResponse(known[name].read_bytes(), headers=SECURITY | {"Cache-Control": "no-cache"})

    @routes.get("/page/assets/{name}", include_in_schema=False)
    def page_file(name: str) -> Response:
        if name not in known:
            return _refusal(404, "There is no such file of the page.")
        return Response(
            known[name].read_bytes(),
            media_type=TYPES[Path(name).suffix],
            headers=SECURITY | {"Cache-Control": "no-cache"},
        )

    return routes


def _request_routes(clients: PageClients, folders: ImageFolders, largest: int) -> APIRouter:
    routes = APIRouter(route_class=_PageRoute, include_in_schema=False)
    pool = clients.pool
    channels = pool.example.model.channels

    @routes.post("/session")
    def begin() -> dict[str, Any]:
        return {"token": clients.claim(), "model": _described(pool.example), "folders": bool(folders.folders)}

    @routes.delete("/session")
    def end(token: Token) -> dict[str, Any]:
        pool.release(token)
        return {}

    @routes.post("/heartbeat")
    def heartbeat(token: Token) -> dict[str, Any]:
        clients.get(token)
        return {"remaining": pool.remaining(token)}

    @routes.get("/images")
    def images(token: Token) -> list[dict[str, Any]]:
        clients.get(token)
        names = zip(folders.folders, folders.names(channels))
        return [{"folder": i, "title": folder.name, "names": found} for i, (folder, found) in enumerate(names)]

    @routes.put("/upload/{channel}")
    async def upload(channel: int, name: str, request: Request, token: Token) -> dict[str, Any]:
        client = clients.get(token)
        if not 0 <= channel < channels:
            raise SAM3DError(f"The model takes images of {channels} channel(s), one file for each.")
        with pool.hold(token):
            if channel == 0:
                await run_in_threadpool(client.forget_uploads)
            client.uploads[channel] = await _received(request, Path(client.folder.name), channel, name, largest)
        return {}

    @routes.post("/open-upload")
    def open_upload(token: Token) -> Response:
        with clients.use(token) as (client, session):
            there = [client.uploads[channel] for channel in sorted(client.uploads)]
            if not there:
                raise SAM3DError("No file has arrived. Choose an image again.")
            try:
                return open_case(client, session, there, _case_name(there[0], channels), token)
            finally:
                client.forget_uploads()

    @routes.post("/open")
    def open_from_folder(chosen: FolderImage, token: Token) -> Response:
        with clients.use(token) as (client, session):
            case, there = folders.files(chosen.folder, chosen.name, session.model)
            return open_case(client, session, there, case, token)

    def open_case(client: PageClient, session: SAM3DSession, there: list[Path], name: str, token: str) -> Response:
        """Messages name files without their folders, which are the server's own."""
        try:
            image = open_image(there, name, session.model, largest)
            client.case = PageCase(session, image, pool.on_device)
        except SAM3DError as e:
            message = str(e)
            for file in there:
                message = message.replace(f"{file.parent}/", "")
            raise SAM3DError(message) from e
        pool.embed_ahead(token)
        size, spacing = image.shape[::-1], image.geometry.spacing[::-1]
        shown = {"name": name, "channels": len(image.array), "size": list(size), "spacing": spacing.tolist()}
        return _json(shown)

    @routes.get("/image")
    def image(token: Token, channel: int = 0) -> Response:
        with clients.use(token) as (client, _):
            case = client.opened()
            if not 0 <= channel < len(case.image.array):
                raise SAM3DError(f"The image has no channel {channel}.")
            return Response(case.image.nifti(channel), media_type="application/octet-stream", headers=PRIVATE)

    @routes.post("/interaction")
    def interaction(drawn: Interaction, token: Token) -> Response:
        with clients.use(token) as (client, session):
            done = client.opened().interact(session, drawn)
            if drawn.kind == "click":
                pool.embed_ahead(token, client.opened().image.click(drawn.points[0]).tolist())
            return _json(done)

    @routes.post("/undo")
    def undo(token: Token) -> Response:
        with clients.use(token) as (client, session):
            return _json(client.opened().undo(session))

    @routes.post("/next")
    def next_object(token: Token) -> Response:
        with clients.use(token) as (client, session):
            return _json(client.opened().next_object(session))

    @routes.post("/clear")
    def clear(token: Token) -> Response:
        with clients.use(token) as (client, session):
            return _json(client.opened().clear(session))

    @routes.delete("/objects/{number}")
    def remove_object(number: int, token: Token) -> Response:
        with clients.use(token) as (client, _):
            return _json(client.opened().remove_object(number))

    @routes.get("/state")
    def state(token: Token) -> Response:
        with clients.use(token) as (client, _):
            return _json(client.opened().everything())

    @routes.get("/segmentation")
    def segmentation(token: Token) -> Response:
        with clients.use(token) as (client, _):
            case = client.opened()
            content = case.image.segmentation_file(case.segmentation())
        return Response(content, media_type="application/gzip", headers=PRIVATE)

    @routes.get("/clicks")
    def clicks(token: Token) -> Response:
        with clients.use(token) as (client, _):
            content = client.opened().prompts_json()
        return Response(content, media_type="application/json", headers=PRIVATE)

    return routes


def _json(content: dict[str, Any]) -> JSONResponse:
    """Masks have many numbers; FastAPI's own encoder would look at each of them."""
    return JSONResponse(content, headers=PRIVATE)


def _described(session: SAM3DSession) -> dict[str, Any]:
    """What the page must know of the model."""
    takes = session.supported_interactions
    return {
        "name": session.model.plans.dataset_name,
        "channels": session.model.channels,
        "classes": [{"number": one.number, "name": one.name} for one in page_classes(session)],
        "tools": [
            tool
            for tool, kind in (("click", "points"), ("scribble", "scribble"), ("box", "bbox2d"))
            if takes.get(kind, False)
        ],
        "background": session.supports_background,
        "endings": list(ENDINGS),
    }


async def _received(request: Request, folder: Path, channel: int, name: str, limit: int) -> Path:
    """Store an uploaded file under its own name, freed of everything that is more than a name.

    Raises:
        SAM3DError: the name has another ending, the file is too large, or there is no room for it.
    """
    plain = "".join(c for c in Path(name.replace("\\", "/")).name if c.isprintable())[-60:].lstrip(".")
    parts = image_name(Path(plain))
    if parts is None or parts.ending.lower() not in ENDINGS:
        raise SAM3DError(f"{plain or 'The file'} can't be opened: its name must end in {', '.join(ENDINGS)}.")
    size = request.headers.get("Content-Length", "0")
    if not size.isdecimal() or int(size) > limit:
        raise too_large(limit)
    if int(size) > shutil.disk_usage(folder).free:
        raise SAM3DError(f"The server has no room for {plain}.")
    place = folder / f"{channel}"
    place.mkdir(exist_ok=True)
    file = place / plain
    try:
        await _store(request, file, limit)
    except BaseException:
        file.unlink(missing_ok=True)
        raise
    return file


async def _store(request: Request, file: Path, limit: int) -> None:
    """Write a body to a file.

    Raises:
        Refused: it is too large, or comes too slowly.
    """
    arrived, parts = 0, request.stream()
    with file.open("wb") as out:
        while part := await next_part(parts, limit - arrived, limit):
            arrived += len(part)
            out.write(part)


def _case_name(file: Path, channels: int) -> str:
    """Of an uploaded image: as `sam3d predict` names the case of a single file."""
    name = image_name(file)
    return name.stem if channels == 1 and name.channel != 0 else name.case
