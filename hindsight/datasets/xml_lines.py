"""XML into ElementTree elements that remember the line they began on."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree
from xml.parsers import expat


class XmlError(Exception):
    """Broken XML; `line` is 1-based."""

    def __init__(self, message: str, line: int) -> None:
        super().__init__(message)
        self.line = line


class LineElement(ElementTree.Element):
    """An element with the 1-based line of its opening tag."""

    line: int = 0


def parse_with_lines(path: Path) -> LineElement:
    """The root element of `path`. Raises OSError, and XmlError if it is broken or declares entities."""
    parser = expat.ParserCreate()

    def make(tag: str, attributes: dict[str, str]) -> LineElement:
        element = LineElement(tag, attributes)
        element.line = parser.CurrentLineNumber
        return element

    def refuse_entity(name: str, *_: object) -> None:
        raise XmlError(f"declares the entity {name!r}, which annotations may not", parser.CurrentLineNumber)

    builder = ElementTree.TreeBuilder(element_factory=make)
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    parser.EntityDeclHandler = refuse_entity
    try:
        parser.Parse(path.read_bytes(), True)
    except expat.ExpatError as error:
        raise XmlError(f"broken XML: {expat.ErrorString(error.code)}", error.lineno) from error
    except UnicodeDecodeError as error:
        raise XmlError(f"broken XML: {error}", parser.CurrentLineNumber) from error
    root = builder.close()
    assert isinstance(root, LineElement)
    return root
