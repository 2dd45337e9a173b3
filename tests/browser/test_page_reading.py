"""Boxes from files: what each format means, and what is said about files that do not fit."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from xml.etree import ElementTree

import pytest
from playwright.sync_api import Browser

from hindsight.boxes import check_boxes
from hindsight.errors import BoxesError
from tests.browser.modules import Modules, open_modules

CLASSES = ["RBC", "WBC", "Platelets"]
IMAGES = [
    {"id": 1, "name": "a.jpg", "width": 640, "height": 480},
    {"id": 2, "name": "b.png", "width": 100, "height": 200},
    {"id": 3, "name": "late.jpg", "width": None, "height": None},
]


@pytest.fixture(scope="module")
def modules(browser: Browser, server: str) -> Iterator[Modules]:
    with open_modules(browser, server) as found:
        yield found


def read(modules: Modules, *files: tuple[str, str], current: int = 0) -> dict[str, Any]:
    """placed: image id -> [[box, label]]; problems: lines; waiting: ids of images."""
    code = """(async () => {
        const place = await import(new URL("page/boxes-place.js", value.base));
        const problems = new module.Problems();
        const entries = module.readBoxes(value.files, value.classes, problems);
        const images = value.images;
        const around = { images, current: images[value.current], classNames: value.classes };
        const found = place.placeBoxes(entries, around, problems);
        const plain = ([id, boxes]) => [id, boxes.map(({ box, label }) => [box, label])];
        return {
            placed: Object.fromEntries([...found.placed].map(plain)),
            waiting: found.waiting.map(({ imageId }) => imageId),
            problems: problems.lines,
        };
    })()"""
    value = {
        "files": [{"name": name, "text": text} for name, text in files],
        "classes": CLASSES,
        "images": IMAGES,
        "current": current,
        "base": modules.base,
    }
    return modules.call("boxes-read", code, value)


def coco(*annotations: dict[str, Any], **changes: Any) -> str:
    document = {
        "images": [
            {"id": 7, "file_name": "train/a.jpg", "width": 640, "height": 480},
            {"id": "x", "file_name": "b.png"},
        ],
        "categories": [{"id": 3, "name": "WBC"}, {"id": 4, "name": "platelets "}, {"id": 5, "name": "cat"}],
        "annotations": list(annotations),
    }
    return json.dumps(document | changes)


def test_coco(modules: Modules) -> None:
    text = coco(
        {"image_id": 7, "category_id": 3, "bbox": [10, 20, 30, 40.5]},
        {"image_id": "x", "category_id": 4, "bbox": [0, 0, 100, 200]},
        {"image_id": 7, "category_id": 3, "bbox": [0, 0, 5, 5], "iscrowd": 1},
    )
    found = read(modules, ("labels.json", text))
    assert found["placed"] == {"1": [[[10, 20, 40, 60.5], "WBC"]], "2": [[[0, 0, 100, 200], "Platelets"]]}
    assert found["problems"] == [
        "labels.json: 1 crowd regions (iscrowd) left out: they are no boxes of one object"
    ]


def test_yolo_with_the_models_classes_or_its_own(modules: Modules) -> None:
    lines = "2 0.5 0.5 0.25 0.5\n\n0 0.1 0.1 0.2 0.2 0.93\n"
    found = read(modules, ("b.txt", lines))
    boxes = [[37.5, 50, 62.5, 150], [0, 0, 20, 40]]
    for (box, label), expected, name in zip(found["placed"]["2"], boxes, ("Platelets", "RBC"), strict=True):
        assert (box, label) == (pytest.approx(expected), name)
    found = read(modules, ("b.txt", lines), ("labels/classes.txt", "WBC\r\nwhatever\r\nrbc\r\n\r\n"))
    assert [label for _, label in found["placed"]["2"]] == ["RBC", "WBC"]
    assert found["problems"] == []
    assert read(modules, ("b.txt", ""))["problems"] == []  # an image without objects


def voc(
    name: str = "RBC", corners: tuple[object, ...] = (1, 1, 640, 480), size: str = "", filename: str = "a.jpg"
) -> str:
    tags = zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)
    places = "".join(f"<{tag}>{value}</{tag}>" for tag, value in tags)
    return (
        f"<annotation><filename>{filename}</filename>{size}"
        f"<object><name>{name}</name><bndbox>{places}</bndbox></object></annotation>"
    )


def test_voc_counts_pixels_from_one(modules: Modules) -> None:
    assert read(modules, ("a.xml", voc()))["placed"] == {"1": [[[0, 0, 640, 480], "RBC"]]}
    size = "<size><width>640</width><height>480</height><depth>3</depth></size>"
    found = read(modules, ("other.xml", f'<?xml version="1.0"?>\n{voc(size=size, corners=(11, 21, 30, 40))}'))
    assert found["placed"] == {"1": [[[10, 20, 30, 40], "RBC"]]}


def test_xml_is_read_as_a_standard_parser_reads_it(modules: Modules) -> None:
    texts = [
        '<?xml version="1.0" encoding="utf-8"?>\n<!-- a > b --><annotation verified="yes">\n'
        "<a>x &amp; &lt;y&gt; &#233;&#x1F600;</a>"
        "<b/><c at='1' bt = \"2\" /><d><![CDATA[<not> & a tag]]></d>\n</annotation>\n",
        "<annotation><o><n>1</n></o><o><n>2</n></o></annotation>",
        "\ufeff<annotation>x<b>y</b>z</annotation>",
    ]

    def plain(node: ElementTree.Element) -> dict[str, Any]:
        text = (node.text or "") + "".join(child.tail or "" for child in node)
        return {"tag": node.tag, "text": text, "children": [plain(child) for child in node]}

    for text in texts:
        assert modules.call("boxes-voc", "module.parseXml(value)", text) == plain(
            ElementTree.fromstring(text.lstrip("\ufeff"))
        )
    code = "(() => { try { return module.parseXml(value); } catch (error) { return error.message; } })()"
    for broken in (
        "",
        "x",
        "<a>",
        "<a></b>",
        "<a/><b/>",
        "<a><b></a></b>",
        "<a b=1/>",
        "<a",
        "</a>",
        "<a>" * 60,
        "<1/>",
        "<a/>x",
    ):
        assert "XML" in modules.call("boxes-voc", code, broken) or "nested" in modules.call(
            "boxes-voc", code, broken
        )


def test_our_own_json(modules: Modules) -> None:
    box = [1, 2, 30, 40]
    for text in (
        json.dumps([box]),
        json.dumps({"boxes": [box]}),
        json.dumps({"image": "aGVsbG8=", "boxes": [box]}),
        json.dumps({"detections": [{"box": box, "score": 0.5}], "image": {"width": 640, "height": 480}}),
    ):
        assert read(modules, ("boxes.json", text))["placed"] == {"1": [[box, None]]}
    labelled = json.dumps([{"box": box, "label": "WBC"}])
    assert read(modules, ("boxes.json", labelled), current=1)["placed"] == {"2": [[box, "WBC"]]}
    answers = {
        "results": [{"detections": [{"box": box, "label": "RBC"}]}, {"detections": []}, {"detections": []}]
    }
    assert read(modules, ("all.json", json.dumps(answers)))["placed"]["1"] == [[box, "RBC"]]
    answers["results"].pop()
    [line] = set(read(modules, ("all.json", json.dumps(answers)))["problems"])
    assert line == "all.json: holds 2 answers without file names, but 3 images are open"


GOOD = {"image_id": 7, "category_id": 3, "bbox": [10, 20, 30, 40]}
MISTAKES = [
    ("a.json", "{", "a.json: is not JSON ("),
    ("a.json", "3", "a.json: holds neither an object nor a list"),
    ("a.json", "null", "a.json: holds neither an object nor a list"),
    ("a.json", '{"a": 1}', "a.json: has none of `boxes`"),
    ("a.json", "", "a.json: is empty"),
    ("a.json", '[{"image_id": 1, "bbox": [1, 2, 3, 4]}]', "a.json: is a list of COCO results"),
    ("a.json", "[[1, 2, 3]]", "a.json: box 1: expected [x1, y1, x2, y2], got “[1,2,3]”"),
    ("a.json", '[["1", 2, 3, 4]]', "a.json: box 1: expected"),
    ("a.json", "[[5, 5, 5, 9]]", "a.json: box 1: [5, 5, 5, 9] is empty or inverted"),
    (
        "a.json",
        "[[1, 1, 642, 9]]",
        "a.json: box 1: [1, 1, 642, 9] leaves the image, which is 640 x 480 pixels",
    ),
    ("a.json", coco(GOOD | {"image_id": 1}), "a.json: annotation 1: no image has the id “1”"),
    ("a.json", coco(GOOD | {"bbox": [1, 2, 3]}), "a.json: annotation 1: expected bbox"),
    (
        "a.json",
        coco(GOOD, images=[{"id": 7, "file_name": "c.jpg"}]),
        "a.json: no open image is called “c.jpg”",
    ),
    (
        "a.json",
        coco(GOOD, images=[{"id": 7, "file_name": "a.jpg", "width": 64, "height": 48}]),
        "a.json: is for “a.jpg” of 64 x 48 pixels; the open one has 640 x 480",
    ),
    ("a.txt", "hello world", "a.txt: line 1: expected class, cx, cy, width, height"),
    ("a.txt", "0 .1 .1 .2 .2 .3 .3", "a.txt: line 1: 7 numbers are a polygon"),
    ("a.txt", "0 50 50 20 20", "a.txt: line 1: cx, cy, width and height are shares of the image"),
    ("a.txt", "0 0.5 0.5 0 0.2", "is empty or inverted"),
    ("zzz.txt", "0 .5 .5 .1 .1", "zzz.txt: no open image is called “zzz”"),
    ("a.xml", "<annotation>", "a.xml: is not well-formed XML"),
    ("a.xml", "<svg/>", "a.xml: has the root <svg>"),
    ("a.xml", '<!DOCTYPE x [<!ENTITY a "b">]><annotation/>', "a.xml: declares a DOCTYPE"),
    (
        "a.xml",
        voc(corners=("nine", 1, 20, 20)),
        "a.xml: object 1: [NaN, 0, 20, 20] has a coordinate that is no number",
    ),
    ("a.png", "\x89PNG", "a.png: is not one of the files that can be read"),
]


@pytest.mark.parametrize(("name", "text", "line"), MISTAKES, ids=range(len(MISTAKES)))
def test_what_does_not_fit_is_said_in_one_line(modules: Modules, name: str, text: str, line: str) -> None:
    found = read(modules, (name, text))
    assert not any(found["placed"].values())
    assert len(found["problems"]) == 1
    assert line in found["problems"][0]


def test_one_bad_box_or_file_does_not_cost_the_others(modules: Modules) -> None:
    text = coco(GOOD, GOOD | {"bbox": [0, 0, 9000, 10]}, GOOD | {"category_id": 99})
    found = read(modules, ("broken.xml", "<"), ("labels.json", text), ("b.txt", "1 .5 .5 .5 .5"))
    assert found["placed"] == {
        "1": [[[10, 20, 40, 60], "WBC"], [[10, 20, 40, 60], None]],
        "2": [[[25, 50, 75, 150], "WBC"]],
    }
    assert [line.split(":")[0] for line in found["problems"]] == ["broken.xml", "labels.json", "labels.json"]


def test_an_unknown_class_is_counted_and_its_boxes_have_none(modules: Modules) -> None:
    found = read(
        modules, ("labels.json", coco(*[GOOD | {"category_id": 5, "bbox": [n, 0, 9, 9]} for n in range(3)]))
    )
    assert [label for _, label in found["placed"]["1"]] == [None] * 3
    assert found["problems"] == [
        "labels.json: “cat” is no class of this model (RBC, WBC, Platelets): 3 boxes taken without a class"
    ]
    found = read(modules, ("b.txt", "7 .5 .5 .5 .5"))
    assert "“class 7” is no class of this model" in found["problems"][0]
    assert found["placed"]["2"] == [[[25, 50, 75, 150], None]]


def test_boxes_of_an_image_without_an_answer_wait(modules: Modules) -> None:
    found = read(modules, ("late.txt", "0 .5 .5 .5 .5"))
    assert (found["waiting"], found["placed"], found["problems"]) == ([3], {}, [])


def test_a_thousand_mistakes_are_a_few_lines(modules: Modules) -> None:
    found = read(modules, ("a.txt", "x\n" * 1000))
    assert len(found["problems"]) == 5
    assert found["problems"][-1] == "a.txt: and 996 more like these"
    long = read(modules, ("a.txt", f"{'<b>' * 1000}\n"))
    assert len(long["problems"][0]) < 200


def test_too_many_boxes_or_bytes_are_refused(modules: Modules) -> None:
    found = read(modules, ("a.json", json.dumps([[1, 1, 2, 2]] * 5001)), ("b.txt", "0 .5 .5 .5 .5"))
    assert found["problems"] == ["a.json: more than 5,000 boxes at a time; the rest is left out"]
    size = modules.call("boxes-read", "module.tooMuch(value)", [{"name": "big.json", "size": 200_000_000}])
    assert size.startswith("big.json: 200 MB; at most 20 MB can be read here.")
    many = modules.call("boxes-read", "module.tooMuch(value)", [{"name": "a.txt", "size": 1}] * 2001)
    assert many.startswith("2001 files; at most 2000")
    assert modules.call("boxes-read", "module.tooMuch(value)", [{"name": "a", "size": 20_000_000}]) is None


BOXES = [
    [0, 0, 640, 480], [-1, -1, 641, 481], [-1.1, 0, 5, 5], [0, 0, 641.5, 5], [3, 3, 3, 9], [9, 3, 3, 9],
    [640, 3, 641, 9],
    [639.5, 3, 641, 9], [-0.5, -0.5, 0, 4], [10.25, 20.5, 30, 40],
]  # fmt: skip


@pytest.mark.parametrize("box", BOXES)
def test_boxes_are_checked_as_the_server_checks_them(modules: Modules, box: list[float]) -> None:
    found = modules.call("boxes-place", "module.checkBox(value, {width: 640, height: 480})", box)
    try:
        expected = check_boxes([box], (480, 640), max_boxes=1)[0].tolist()
    except BoxesError:
        assert set(found) == {"problem"}
    else:
        assert found["box"] == pytest.approx(expected)


def test_what_is_read_twice_is_there_once(modules: Modules) -> None:
    code = "module.missingFrom(value[0], value[1])"
    there = [{"box": [1, 2, 3, 4], "label": "RBC"}]
    new = [
        {"box": [1.1, 2, 3, 4], "label": "RBC"},
        {"box": [1, 2, 3, 4], "label": None},
        {"box": [1, 2, 3, 9], "label": "RBC"},
    ]
    assert modules.call("boxes-place", code, [there, new]) == new[1:]
