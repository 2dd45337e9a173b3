"""The page at / and the API reference at /docs. Both come from this server alone: no CDN, so they work
offline.
"""

from functools import cache
from pathlib import Path

from fastapi import APIRouter, FastAPI, Request, Response
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import FileResponse, HTMLResponse
from starlette.staticfiles import StaticFiles

from service.reference import reference_page

_SERVICE = Path(__file__).resolve().parent.parent
_PAGE = _SERVICE / "page"
_FRESH = {"Cache-Control": "no-cache"}  # revalidated by ETag, so an upgraded server never meets an old script

router = APIRouter(include_in_schema=False)


class FreshStaticFiles(StaticFiles):
    """StaticFiles whose answers browsers revalidate."""

    def file_response(self, *args, **kwargs):  # type: ignore[no-untyped-def]  # the parent's signature, unchanged
        response = super().file_response(*args, **kwargs)
        response.headers.update(_FRESH)
        return response


def mount_page(app: FastAPI) -> None:
    # Text that everybody may read: compressing it tells nobody anything, and a third of it is left.
    app.mount("/page", GZipMiddleware(FreshStaticFiles(directory=_PAGE), compresslevel=6), name="page")


@router.get("/")
async def page() -> Response:
    return FileResponse(_PAGE / "index.html", headers=_FRESH)


@router.get("/docs")
async def docs(request: Request) -> Response:
    return HTMLResponse(_rendered(request.app), headers=_FRESH)


@router.get("/docs.css")
async def docs_style() -> Response:
    return FileResponse(_SERVICE / "reference.css", headers=_FRESH)


@cache
def _rendered(app: FastAPI) -> str:
    return reference_page(app.openapi())
