"""`python -m tests.kserve_descriptor` writes service/kserve/proto/descriptor.py, with grpcio-tools.

A plain `_pb2` module would register its names for the whole process, where another library's messages of the
same protocol (tritonclient's, kserve's) already may be: so the descriptor is kept, and messages.py gives it
a pool of its own.
"""

import base64
import importlib.resources
import tempfile
import textwrap
from pathlib import Path

_FOLDER = Path(__file__).resolve().parent.parent / "service" / "kserve" / "proto"
SOURCE = _FOLDER / "open_inference.proto"
TARGET = _FOLDER / "descriptor.py"
_HEADER = '''"""Made of open_inference.proto by `python -m tests.kserve_descriptor`: do not edit."""

import base64

DESCRIPTOR = base64.b64decode(
'''


def compiled() -> bytes:
    """open_inference.proto as a serialized FileDescriptorProto."""
    from google.protobuf import descriptor_pb2
    from grpc_tools import protoc

    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "set"
        include = importlib.resources.files("grpc_tools") / "_proto"
        code = protoc.main(
            ["protoc", f"-I{SOURCE.parent}", f"-I{include}", f"--descriptor_set_out={output}", SOURCE.name]
        )
        if code != 0:
            raise RuntimeError(f"protoc failed on {SOURCE.name}")
        files = descriptor_pb2.FileDescriptorSet.FromString(output.read_bytes()).file
    return bytes(files[0].SerializeToString(deterministic=True))


def module_text(descriptor: bytes) -> str:
    """The text of descriptor.py."""
    lines = textwrap.wrap(base64.b64encode(descriptor).decode(), 100)
    return _HEADER + "".join(f'    b"{line}"\n' for line in lines) + ")\n"


if __name__ == "__main__":
    TARGET.write_text(module_text(compiled()), encoding="utf-8")
