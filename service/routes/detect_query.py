"""What a request to /detect may ask for in its query."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from hindsight.artifact import Artifact
from hindsight.options import DetectOptions
from hindsight.tiling import LEAST_TILE, MOST_OVERLAP, Tiling

# For the description alone: DetectOptions checks, and says more.
_UNIT: dict[str, Any] = {"minimum": 0, "maximum": 1}


class DetectQuery(BaseModel):
    """Query of /detect. Left out: the model's defaults. Unknown names are errors."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    model: str | None = Field(
        None, description="a name from /models; the default model if left out", examples=["cells"]
    )
    class_threshold: float | None = Field(
        None, description="least class score, before fusion; 0..1", json_schema_extra=_UNIT
    )
    score_threshold: float | None = Field(
        None, description="least reported score; 0..1", json_schema_extra=_UNIT
    )
    iou_weight: float | None = Field(
        None,
        description="w in score = class^(1-w) * iou^w; 0..1, 0 is the class score alone",
        json_schema_extra=_UNIT,
    )
    nms_threshold: float | None = Field(
        None,
        description="IoU above which the weaker of two boxes goes; rounded to .05",
        json_schema_extra={"exclusiveMinimum": 0, "maximum": 1},
    )
    classes: list[str] | None = Field(
        None, description="names to keep, comma-separated or repeated", examples=[["RBC,WBC"]]
    )
    max_detections: int | None = Field(
        None,
        description="most boxes to answer; up to the model's own limit, which with `tile` is each tile's",
        json_schema_extra={"minimum": 1},
    )
    tile: int | None = Field(
        None,
        description="look at each image in tiles of this side, in its pixels; every tile counts as an image",
        json_schema_extra={"minimum": LEAST_TILE},
        examples=[640],
    )
    overlap: float | None = Field(
        None,
        description="with `tile`: the least share of a tile's side that neighbours have in common; .2",
        json_schema_extra={"minimum": 0, "maximum": MOST_OVERLAP},
    )
    whole: bool | None = Field(
        None, description="with `tile`: look at the whole image, too, for large objects; true"
    )
    format: Literal["json", "coco", "yolo", "labelstudio"] = "json"
    annotate: bool = Field(
        False, description="answer the picture with the boxes drawn: JPEG, or PNG if Accept asks for it"
    )

    def tiling(self) -> Tiling | None:
        """None where no tiles are asked for. Raises OptionError."""
        return Tiling.resolve(self.tile, self.overlap, self.whole)

    def resolve(self, artifact: Artifact, passes: int) -> DetectOptions:
        """Validated options. passes: most of the model for one image. Raises OptionError."""
        classes = None if self.classes is None else _names(self.classes, artifact.manifest.class_names)
        return DetectOptions.resolve(
            artifact.manifest,
            passes,
            class_threshold=self.class_threshold,
            score_threshold=self.score_threshold,
            iou_weight=self.iou_weight,
            nms_threshold=self.nms_threshold,
            classes=classes,
            max_detections=self.max_detections,
        )


def _names(given: list[str], class_names: tuple[str, ...]) -> list[str]:
    """Class names of a query; a value is split at commas unless it is a class name as it stands."""
    names: list[str] = []
    for value in given:
        names += (
            [value] if value in class_names else [part.strip() for part in value.split(",") if part.strip()]
        )
    return names
