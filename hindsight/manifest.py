"""What `manifest.json` says about a model, and the strict reading and writing of it."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hindsight.errors import ArtifactError

FORMAT_VERSION = 1

NMS_KINDS = ("hard", "soft_linear", "soft_gaussian", "iou_guided")
_COLOUR = re.compile(r"#[0-9a-f]{6}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
# Far above what any detector has: past these, a typing error or an attack would take all memory.
_MOST_DETECTIONS, _MOST_RESCORE_BOXES = 10_000, 100_000
_MOST_CLASSES = 100_000
_LONGEST_SIDE, _LARGEST_MULTIPLE = 16_384, 1024
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class ClassInfo:
    """One class: its name and the colour (`#rrggbb`) its boxes are drawn in."""

    name: str
    colour: str


@dataclass(frozen=True)
class ResizeRule:
    """Scale so that the short side becomes `short_side`, unless the long side would then pass `long_side`;
    pixels.
    """

    short_side: int
    long_side: int
    pad_multiple: int = 32


@dataclass(frozen=True)
class Defaults:
    """The thresholds used when a request names none; all in 0..1."""

    class_threshold: float
    score_threshold: float
    iou_weight: float
    nms_threshold: float


@dataclass(frozen=True)
class Manifest:
    """The contents of `manifest.json`.

    files maps each file's path, relative to the folder with forward slashes, to its sha256 in hex.
    """

    format_version: int
    name: str
    version: str
    description: str
    classes: tuple[ClassInfo, ...]
    resize: ResizeRule
    defaults: Defaults
    nms_kind: str
    max_detections: int
    max_rescore_boxes: int
    has_localization: bool
    architecture: dict[str, Any]
    training_data: dict[str, Any]
    licence: str
    metrics: dict[str, Any]
    files: dict[str, str]
    has_masks: bool = False

    def __post_init__(self) -> None:
        check_manifest(self)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The class names in label order."""
        return tuple(info.name for info in self.classes)

    def to_json(self) -> dict[str, Any]:
        """A plain JSON object that `parse_manifest` reads back equal.

        `has_masks` is written only where it is true: a reader older than masks refuses a field it lacks.
        """
        document = dataclasses.asdict(self)
        if not self.has_masks:
            del document["has_masks"]
        return document


def check_manifest(manifest: Manifest) -> None:
    """Raise ArtifactError where a value makes no sense, naming the field, what was expected and what came."""
    _expect(_NAME.fullmatch(manifest.name), "name", "letters, digits, '.', '_' or '-'", manifest.name)
    # These are shown in terminals and logs as they stand.
    readable = manifest.version and manifest.version.isprintable()
    _expect(readable, "version", "a non-empty string without control characters", manifest.version)
    names = manifest.class_names
    _expect(names and all(names), "classes", "at least one class, each with a name", names)
    _expect(len(names) <= _MOST_CLASSES, "classes", f"at most {_MOST_CLASSES}", len(names))
    _expect(all(name.isprintable() for name in names), "classes", "names without control characters", names)
    _expect(len(set(names)) == len(names), "classes", "different names", names)
    for info in manifest.classes:
        _expect(
            _COLOUR.fullmatch(info.colour),
            f"classes[{info.name}].colour",
            "#rrggbb in lower case",
            info.colour,
        )
    rule = manifest.resize
    _expect(1 <= rule.short_side <= rule.long_side, "resize", "1 <= short_side <= long_side", rule)
    _expect(rule.long_side <= _LONGEST_SIDE, "resize.long_side", f"at most {_LONGEST_SIDE}", rule.long_side)
    _expect(
        1 <= rule.pad_multiple <= _LARGEST_MULTIPLE,
        "resize.pad_multiple",
        f"in 1..{_LARGEST_MULTIPLE}",
        rule.pad_multiple,
    )
    for field in dataclasses.fields(Defaults):
        value = getattr(manifest.defaults, field.name)
        _expect(math.isfinite(value) and 0 <= value <= 1, f"defaults.{field.name}", "a number in 0..1", value)
    _expect(
        manifest.defaults.nms_threshold > 0,
        "defaults.nms_threshold",
        "more than 0",
        manifest.defaults.nms_threshold,
    )
    _expect(manifest.nms_kind in NMS_KINDS, "nms_kind", f"one of {', '.join(NMS_KINDS)}", manifest.nms_kind)
    for name, least, most in (
        ("max_detections", 1, _MOST_DETECTIONS),
        ("max_rescore_boxes", 0, _MOST_RESCORE_BOXES),
    ):
        count = getattr(manifest, name)
        _expect(least <= count <= most, name, f"in {least}..{most}", count)
    for relative, digest in manifest.files.items():
        _expect(_SHA256.fullmatch(digest), f"files[{relative}]", "a sha256 in lower-case hex", digest)


def parse_manifest(document: object) -> Manifest:
    """A Manifest from parsed JSON. Raises ArtifactError on a newer format, or a missing, unknown or ill-typed
    field.
    """
    root = _object(document, "manifest.json")
    version = root.get("format_version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise ArtifactError(f"manifest.json: format_version must be a whole number from 1, got {version!r}")
    if version > FORMAT_VERSION:
        raise ArtifactError(
            f"made by a newer Hindsight, format {version}; this one reads up to "
            f"{FORMAT_VERSION}: upgrade hindsight-detector"
        )
    _known_keys(root, Manifest, "manifest.json")
    classes = root["classes"]
    if not isinstance(classes, list):
        raise ArtifactError(f"manifest.json: classes must be a list, got {type(classes).__name__}")
    return Manifest(
        format_version=version,
        name=_string(root, "name"),
        version=_string(root, "version"),
        description=_string(root, "description"),
        classes=tuple(_class_info(item) for item in classes),
        resize=_resize_rule(root["resize"]),
        defaults=_defaults(root["defaults"]),
        nms_kind=_string(root, "nms_kind"),
        max_detections=_integer(root, "max_detections"),
        max_rescore_boxes=_integer(root, "max_rescore_boxes"),
        has_localization=_boolean(root, "has_localization"),
        architecture=dict(_object(root["architecture"], "architecture")),
        training_data=dict(_object(root["training_data"], "training_data")),
        licence=_string(root, "licence"),
        metrics=dict(_object(root["metrics"], "metrics")),
        files={relative: _string(root["files"], relative) for relative in _object(root["files"], "files")},
        has_masks=_boolean(root, "has_masks") if "has_masks" in root else False,
    )


def _class_info(value: object) -> ClassInfo:
    item = _object(value, "classes")
    _known_keys(item, ClassInfo, "classes")
    return ClassInfo(_string(item, "name"), _string(item, "colour"))


def _resize_rule(value: object) -> ResizeRule:
    item = _object(value, "resize")
    _known_keys(item, ResizeRule, "resize")
    return ResizeRule(
        _integer(item, "short_side"), _integer(item, "long_side"), _integer(item, "pad_multiple")
    )


def _defaults(value: object) -> Defaults:
    item = _object(value, "defaults")
    _known_keys(item, Defaults, "defaults")
    return Defaults(**{field.name: _number(item, field.name) for field in dataclasses.fields(Defaults)})


def _known_keys(item: Mapping[str, Any], kind: type[Any], where: str) -> None:
    known = dataclasses.fields(kind)
    required = {field.name for field in known if field.default is dataclasses.MISSING}
    missing = sorted(required - set(item))
    unknown = sorted(set(item) - {field.name for field in known})
    if missing or unknown:
        raise ArtifactError(f"{where}: missing fields {missing}, unknown fields {unknown}")


def _object(value: object, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ArtifactError(f"{where} must be a JSON object, got {type(value).__name__}")
    return value


def _string(item: Mapping[str, Any], key: str) -> str:
    value = item[key]
    if not isinstance(value, str):
        raise ArtifactError(f"manifest.json: {key} must be a string, got {value!r}")
    return value


def _integer(item: Mapping[str, Any], key: str) -> int:
    value = item[key]
    if not isinstance(value, int) or isinstance(value, bool):
        raise ArtifactError(f"manifest.json: {key} must be a whole number, got {value!r}")
    return value


def _number(item: Mapping[str, Any], key: str) -> float:
    value = item[key]
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise ArtifactError(f"manifest.json: {key} must be a number, got {value!r}")
    try:
        return float(value)
    except OverflowError:
        raise ArtifactError(f"manifest.json: {key} is a whole number past all others") from None


def _boolean(item: Mapping[str, Any], key: str) -> bool:
    value = item[key]
    if not isinstance(value, bool):
        raise ArtifactError(f"manifest.json: {key} must be true or false, got {value!r}")
    return value


def _expect(holds: object, field: str, expected: str, came: object) -> None:
    if not holds:
        raise ArtifactError(f"manifest: {field} must be {expected}, got {came!r}")
