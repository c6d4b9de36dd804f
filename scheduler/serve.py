"""`moodreel serve`: the page of `report`, live, for a whole database. It reads only what is in the database."""

import ipaddress
import socket
from datetime import date
from typing import Any

import uvicorn
from rich.console import Console
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from db import gallery
from db.errors import BadOption
from db.gallery import SORTS, STATES, Shown, Wish
from db.identity import ObjectName, path_of
from db.store import Store
from db.words import EMOTIONS
from scheduler.pages import page
from scheduler.report import UNPLAYABLE, detail, media_type, overview
from scheduler.show import open_existing

ROWS_AT_MOST = 200
LOCAL_NAMES = ("127.0.0.1", "localhost", "[::1]")


def run(db_url: str, host: str, port: int) -> None:
    """Serve until Ctrl-C.

    Raises:
        BadOption: nothing can listen there.
    """
    console = Console(stderr=True)
    with open_existing(db_url) as store:
        gallery.read_only(store)
        app = application(store, None if not is_local(host) else LOCAL_NAMES)
        listening = _listen(host, port)
        if not is_local(host):
            console.print(
                f"Whoever reaches {host}:{port} sees every video and result: there is no password.", style="yellow"
            )
        console.print(f"http://{f'[{host}]' if ':' in host else host}:{port}/   (Ctrl-C ends it)", markup=False)
        uvicorn.Server(uvicorn.Config(app, log_level="warning", server_header=False)).run(sockets=[listening])


def is_local(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen()  # SO_REUSEADDR lets two bind, but only one listen
    except OSError as error:
        listening.close()
        reason = error.strerror or str(error)
        raise BadOption(f"Nothing can listen at {host}:{port}: {reason}", "Choose another --port or --host.") from error
    return listening


def application(store: Store, hosts: tuple[str, ...] | None) -> Starlette:
    """The application.

    Args:
        store: which is read, and not closed.
        hosts: names that requests may be made to, against pages elsewhere that give this machine a name of theirs;
            None: any.
    """
    html = page({"videos": [], "pipelines": _pipelines(store)}, live=True)

    def index(_request: Request) -> Response:
        return HTMLResponse(html, headers={"Cache-Control": "no-store", "X-Frame-Options": "DENY"})

    def videos(request: Request) -> Response:
        wish, limit, offset = _wish(request)
        with store.reading() as connection:
            found = gallery.listed(connection, wish, limit, offset)
            value = {"total": gallery.count(connection, wish), **overview(connection, found)}
        return _json(value)

    def video(request: Request) -> Response:
        shown = _shown(store, request)
        with store.reading() as connection:
            value = detail(connection, shown)
        url, why = (None, UNPLAYABLE) if ObjectName.of(shown.uri) else (f"media/{shown.id}", "")
        return _json({**value, "url": url, "why": why})

    def media(request: Request) -> Response:
        shown = _shown(store, request)
        path = None if ObjectName.of(shown.uri) else path_of(shown.uri)
        if path is None or not path.is_file():
            raise HTTPException(404, "The video is not there." if path else UNPLAYABLE)
        return FileResponse(path, media_type=media_type(path), headers={"X-Content-Type-Options": "nosniff"})

    routes = [
        Route("/", index),
        Route("/api/videos", videos),
        Route("/api/videos/{id:int}", video),
        Route("/media/{id:int}", media),
    ]  # for GET and HEAD, as is Starlette's rule where nothing is said
    allowed = [Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False)] if hosts else []
    return Starlette(routes=routes, middleware=allowed, exception_handlers={HTTPException: _refused})


def _pipelines(store: Store) -> list[tuple[str, str]]:
    with store.reading() as connection:
        return gallery.pipelines_shown(connection)


def _shown(store: Store, request: Request) -> Shown:
    video_id = int(request.path_params["id"])
    with store.reading() as connection:
        found = gallery.one(connection, video_id) if video_id < 2**63 else None
    if found is None:
        raise HTTPException(404, "There is no such video in this database.")
    return found


def _wish(request: Request) -> tuple[Wish, int, int]:
    asked = request.query_params
    try:
        limit, offset = int(asked.get("limit", 60)), int(asked.get("offset", 0))
        since, until = (date.fromisoformat(asked[name]) if asked.get(name) else None for name in ("since", "until"))
    except ValueError as error:
        raise HTTPException(400, f"The filter cannot be understood: {error}.") from error
    emotion, state, pipeline = (asked.get(name) or None for name in ("emotion", "state", "pipeline"))
    sort = asked.get("sort") or "name"
    within = 0 < limit <= ROWS_AT_MOST and 0 <= offset < 2**31
    if not within or emotion not in (None, *EMOTIONS) or state not in (None, *STATES) or sort not in SORTS:
        raise HTTPException(400, "There is no such filter, order or page.")
    text = asked.get("text", "")[:1000].replace("\0", "")
    wish = Wish(text=text, emotion=emotion, state=state, pipeline=pipeline, since=since, until=until, sort=sort)
    return wish, limit, offset


def _json(value: Any) -> Response:
    return JSONResponse(value, headers={"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"})


def _refused(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, headers=dict(error.headers or {}))
