"""The wire format: what clients may rely on. The routes build these documents by hand (they are hot); tests
hold them to it.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

_BOX = [93.1, 81.25, 183.4, 176.0]


class Wire(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ProblemDocument(Wire):
    """An error, RFC 9457 (application/problem+json)."""

    type: str = Field(examples=["/docs#corrupt-image"])
    title: str = Field(examples=["The image cannot be decoded"])
    status: int = Field(examples=[422])
    detail: str = Field(examples=["the JPEG data is broken or cut short (image file is truncated)"])
    code: str = Field(
        examples=["corrupt-image"],
        description="the class of hindsight.errors that the Python client raises; `type` is more precise",
    )
    request_id: str = Field(examples=["0e3b7c0d0a7f4b0c8f7c7a3d6f1d2c11"])
    errors: list[dict[str, Any]] | None = None
    retry_after_ms: int | None = Field(
        default=None, description="Retry-After in milliseconds, where the answer has that header"
    )


class ImageSize(Wire):
    """Pixels, after the EXIF orientation."""

    width: int = Field(examples=[640])
    height: int = Field(examples=[480])


class RunLengthCode(Wire):
    """COCO's compressed run-length code of a bitmap of the whole image."""

    size: tuple[int, int] = Field(examples=[[480, 640]], description="height, width")
    counts: str


class Detection(Wire):
    """One box and the second opinion on it; null where the model has no localization head."""

    box: tuple[float, float, float, float] = Field(
        examples=[_BOX], description="x1, y1, x2, y2 in pixels of the image"
    )
    label: str = Field(examples=["RBC"])
    label_id: int = Field(examples=[1])
    score: float = Field(examples=[0.91], description="class_score^(1-w) * iou^w with w = iou_weight")
    class_score: float = Field(examples=[0.97])
    iou: float | None = Field(examples=[0.86], description="predicted IoU of the box with its object")
    purity: float | None = Field(examples=[0.93], description="predicted share of the box that is the object")
    integrity: float | None = Field(
        examples=[0.92], description="predicted share of the object that is in the box"
    )
    segmentation: RunLengthCode | None = Field(
        default=None, description="the object's pixels; absent where the model makes no masks"
    )


Timings = dict[str, float]


class DetectResponse(Wire):
    """One image."""

    model: str = Field(examples=["cells"])
    version: str = Field(examples=["1"])
    image: ImageSize
    detections: list[Detection]
    timings_ms: Timings = Field(
        examples=[{"read": 0.4, "decode": 3.1, "queue": 0.1, "model": 41.0, "total": 47.2}]
    )


class CocoDocument(Wire):
    """`format=coco`: one document for all images."""

    images: list[dict[str, Any]]
    categories: list[dict[str, Any]]
    annotations: list[dict[str, Any]]


class LabelStudioPrediction(Wire):
    """`format=labelstudio`, one image."""

    model_version: str
    score: float
    result: list[dict[str, Any]]


class YoloLabels(Wire):
    """`format=yolo`, one image of many; a single one is answered as text."""

    labels: str


class DetectManyResponse(Wire):
    """Many images, in the order sent; one that failed carries its problem and its neighbours are fine."""

    results: list[DetectResponse | ProblemDocument | LabelStudioPrediction | YoloLabels]


class SecondOpinion(Wire):
    """What the model thinks of a box that was given."""

    iou: float
    purity: float | None
    integrity: float | None
    label: str = Field(description="the best class")
    label_id: int
    class_score: float = Field(description="of the best class")
    class_scores: dict[str, float]


class RescoreResponse(Wire):
    """One opinion a box, in the order given."""

    model: str
    version: str
    image: ImageSize
    results: list[SecondOpinion]
    timings_ms: Timings


class ClassEntry(Wire):
    name: str = Field(examples=["RBC"])
    colour: str = Field(examples=["#d62728"])


class InputSize(Wire):
    """The short side is scaled to short_side unless the long side would pass long_side; then padded to
    pad_multiple.
    """

    short_side: int
    long_side: int
    pad_multiple: int


class Thresholds(Wire):
    class_threshold: float
    score_threshold: float
    iou_weight: float
    nms_threshold: float


class VersionEntry(Wire):
    """One version of a model, in memory or on disk."""

    version: str | None = Field(examples=["0.2.0"], description="null where the files do not even say that")
    state: Literal["loaded", "loading", "failed", "unloaded"]
    default: bool = Field(description="it answers where a request names no version")
    failure: str | None = Field(description="why it was not loaded when that was last tried")
    classes: list[str] | None = Field(description="class names in label order, of a version that is loaded")
    has_localization: bool | None = Field(description="its answers have iou, purity, integrity; if loaded")
    has_masks: bool | None = Field(description="its answers have masks; if loaded")


class ModelEntry(Wire):
    """The newest version that is loaded, and which others there are."""

    name: str
    version: str
    description: str
    classes: list[ClassEntry]
    input: InputSize
    defaults: Thresholds
    max_detections: int
    max_rescore_boxes: int
    has_localization: bool
    has_masks: bool
    intended_use: str = Field(description="as on the model's card")
    limits: str = Field(description="as on the model's card")
    training_data: dict[str, Any] = Field(description="as its maker states it; empty: not stated")
    metrics: dict[str, Any]
    licence: str
    samples: list[str] = Field(description="file names, to be had at /models/{name}/samples/{file}")
    versions: list[VersionEntry]


class UnloadedModel(Wire):
    """A model that could be loaded, or could not be."""

    name: str
    versions: list[VersionEntry]


class ModelsResponse(Wire):
    models: list[ModelEntry]
    unloaded: list[UnloadedModel] = Field(description="known, but no version is loaded")
    default: str


class ChangeEntry(Wire):
    """A load or an unload."""

    operation: Literal["load", "unload"]
    version: str | None = Field(description="null: all versions")
    state: Literal["running", "done", "failed"]
    failure: str | None
    seconds: float
    steps: list[str] = Field(examples=[["cpu: warming up cells@0.2.0"]])


class ModelStatus(Wire):
    """Versions, the newest first, and the last load or unload since the server started."""

    name: str
    versions: list[VersionEntry]
    last_change: ChangeEntry | None


class WorkerStatus(Wire):
    device: str
    state: str
    step: str = Field(examples=["serving"], description="or what it is loading")
    failure: str | None


class Readiness(Wire):
    ready: bool
    draining: bool = Field(description="the server has been told to stop")
    workers: list[WorkerStatus]
