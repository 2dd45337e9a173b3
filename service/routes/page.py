"""The page at / and the API reference at /docs. Both come from this server alone: no CDN, so they work
offline.
"""

from functools import cache
from pathlib import Path

from fastapi import APIRouter, FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, HTMLResponse

from service.page_files import page_files
from service.reference import reference_page

_SERVICE = Path(__file__).resolve().parent.parent
_FRESH = {"Cache-Control": "no-cache"}  # revalidated by ETag

router = APIRouter(include_in_schema=False)


@router.get("/")
async def page(request: Request) -> Response:
    return page_files()["index.html"].answer(request.headers)


@router.get("/page/{path:path}")
async def page_file(request: Request, path: str) -> Response:
    file = page_files().get(path)  # by name, never joined to a path: there is nothing to traverse
    if file is None:
        raise HTTPException(404)
    return file.answer(request.headers)


@router.get("/docs")
async def docs(request: Request) -> Response:
    return HTMLResponse(_rendered(request.app), headers=_FRESH)


@router.get("/docs.css")
async def docs_style() -> Response:
    return FileResponse(_SERVICE / "reference.css", headers=_FRESH)


@cache
def _rendered(app: FastAPI) -> str:
    return reference_page(app.openapi())
