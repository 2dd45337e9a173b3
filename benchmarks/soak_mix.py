"""The traffic of benchmarks/soak.py: what kinds, how often."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from hindsight.artifact import Artifact
from hindsight.bench.photos import Photo, folder_photos, made_photos
from hindsight.bench.requests import Request, Source, detect_requests, mixed, rescore_requests, turn
from hindsight.bench.wire import Address

LEAVES = "a client that leaves"
_PATIENCE = 0.03  # seconds of those
_SIZES = ((320, 240), (640, 480), (1024, 768), (480, 640), (1600, 1200))
_FORMATS = ("coco", "yolo", "labelstudio")


def soak_mix(
    address: Address, models: Sequence[Artifact], *, leaving: bool, period: int | None = None
) -> Source:
    """Requests for ever. `models`: served there, the first is the default. `leaving`: some clients leave.
    `period`: after so many requests the kinds come in the same order again.
    """
    samples = {model.manifest.name: folder_photos(model.samples[0].parent) for model in models}
    made = made_photos(_SIZES, seed=7)
    kinds: list[tuple[float, list[Request]]] = [
        (15, detect_requests(address, made, kind="sizes")),
        (4, broken(address, made[0])),
    ]
    for name, photos in samples.items():
        of_model = f"?model={name}"
        small = photos[:2]
        kinds += [
            (50 / len(models), detect_requests(address, photos, query=of_model, kind=name)),
            (6, detect_requests(address, photos, images=3, query=of_model, kind=f"{name}, three at once")),
            (6, rescore_requests(address, photos, boxes=8, seed=3, query=of_model, kind=f"{name}, rescore")),
            (3, detect_requests(address, small, query=f"{of_model}&annotate=true", kind=f"{name}, drawn")),
        ]
        kinds += [
            (1, detect_requests(address, small, query=f"{of_model}&format={form}", kind=f"{name}, {form}"))
            for form in _FORMATS
        ]
    if leaving:
        leaves = detect_requests(address, made, kind=LEAVES)
        kinds.append((3, [replace(request, patience=_PATIENCE) for request in leaves]))
    return mixed([(weight, turn(requests)) for weight, requests in kinds], seed=11, period=period)


def broken(address: Address, photo: Photo) -> list[Request]:
    """What must be refused: half a photo, and text that says it is one."""
    half = Photo(photo.data[: len(photo.data) // 2], photo.media_type, photo.width, photo.height)
    text = Photo(b"this is no photo " * 40, "image/jpeg", 1, 1)
    refused = {"half a photo": (half, 422), "text": (text, 415)}
    return [
        replace(detect_requests(address, [each], kind=kind)[0], good=frozenset({status}))
        for kind, (each, status) in refused.items()
    ]
