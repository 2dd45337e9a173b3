"""A project's labeling configuration, an XML text: where boxes go, and what the project calls each class."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from xml.parsers import expat

from hindsight.errors import OptionError
from hindsight.hints import did_you_mean
from service.errors import BadBody

_MAX_BYTES = 1_000_000
_TRUE = {"1", "true", "yes"}


@dataclass(frozen=True)
class Control:
    """from_name, to_name: the <RectangleLabels> and its <Image>. key: of a task's data, where the image is.
    labels: class name -> what the project calls it; other classes are left out. score_threshold: what the
    tag asks for, None for the model's default.
    """

    from_name: str
    to_name: str
    key: str
    labels: Mapping[str, str]
    score_threshold: float | None


@dataclass
class _Tag:
    """A <RectangleLabels>, its attributes by lower-case name, and those of the <Label>s in it."""

    attributes: dict[str, str]
    labels: list[dict[str, str]] = field(default_factory=list)


def read_control(label_config: str, class_names: Sequence[str]) -> Control:
    """The first <RectangleLabels> of the configuration that labels an <Image> and does not say
    model_skip="true".

    Raises BadBody for a text that is not such XML; OptionError where no box has a place in it, or none of its
    labels is a class of the model.
    """
    tags, images = _parse(label_config)
    for tag in tags:
        target = next((name for name in tag.attributes.get("toname", "").split(",") if name in images), None)
        if target is None or tag.attributes.get("model_skip", "").lower() in _TRUE:
            continue
        return Control(
            from_name=tag.attributes.get("name", ""),
            to_name=target,
            key=_data_key(images[target]),
            labels=_label_map(tag.labels, class_names),
            score_threshold=_threshold(tag.attributes),
        )
    raise OptionError("the labeling configuration has no <RectangleLabels> whose toName is an <Image>")


def _parse(text: str) -> tuple[list[_Tag], dict[str, str]]:
    """-> the <RectangleLabels>, and the `value` of each <Image> by its name."""
    if len(text) > _MAX_BYTES:
        raise BadBody(f"the labeling configuration has more than {_MAX_BYTES} characters")
    tags: list[_Tag] = []
    images: dict[str, str] = {}
    within: list[str] = []

    def start(name: str, given: dict[str, str]) -> None:
        kind = name.lower()
        attributes = {key.lower(): value for key, value in given.items()}
        if kind == "rectanglelabels":
            tags.append(_Tag(attributes))
        elif kind == "label" and "rectanglelabels" in within:
            tags[-1].labels.append(attributes)
        elif kind == "image":
            images[attributes.get("name", "")] = attributes.get("value", "")
        within.append(kind)

    def refuse(*_: object) -> None:
        raise BadBody("the labeling configuration has a DOCTYPE; none is accepted")

    parser = expat.ParserCreate()
    parser.StartElementHandler = start
    parser.EndElementHandler = lambda name: within.pop()
    # Entities can only be declared in a DOCTYPE: without one there is nothing to expand and nothing to load.
    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(text, True)
    except (expat.ExpatError, UnicodeEncodeError) as error:
        raise BadBody(f"the labeling configuration is not XML ({error})") from None
    return tags, images


def _data_key(value: str) -> str:
    key = value.removeprefix("$")
    if not value.startswith("$") or not key:
        raise OptionError(
            f'the <Image> must say value="$KEY", where a task has its image, got {value[:64]!r}'
        )
    return key


def _label_map(labels: Sequence[dict[str, str]], class_names: Sequence[str]) -> dict[str, str]:
    """A label stands for the classes that its predicted_values list, or else for the one of its own name or
    alias; capitals do not matter. In results it goes by its alias, if it has one, as in Label Studio's own.
    """
    if not labels:  # they come with each task; the model's own names are all there is to say
        return {name: name for name in class_names}
    by_lower = {name.lower(): name for name in class_names}
    found: dict[str, str] = {}
    for label in labels:
        shown = label.get("alias") or label.get("value", "")
        predicted = [part.strip() for part in label.get("predicted_values", "").split(",") if part.strip()]
        for name in predicted or (label.get("value", ""), label.get("alias", "")):
            known = name if name in class_names else by_lower.get(name.lower())
            if known is not None:
                found.setdefault(known, shown)
    if not found:
        first = labels[0].get("value", "")[:64]
        raise OptionError(
            f"none of the project's labels, such as {first!r}{did_you_mean(first, class_names)}, is a class "
            f"of the model: {', '.join(class_names)}; rename them or add predicted_values"
        )
    return found


def _threshold(attributes: Mapping[str, str]) -> float | None:
    text = attributes.get("model_score_threshold") or attributes.get("score_threshold")
    if not text:
        return None
    try:
        return float(text)  # its range is checked with the other options
    except ValueError:
        raise OptionError(f"model_score_threshold must be a number 0..1, got {text[:64]!r}") from None
