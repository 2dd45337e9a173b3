"""The peer on LitServe: `python -m benchmarks.serving_litserve --port 9000`, in an environment that has it.

One worker process, as it is by default. The photo is a file of a form: LitServe reads no raw bodies.
"""

from __future__ import annotations

from typing import Annotated, Any

import litserve
import typer

from benchmarks.serving_peers import Detector


class DetectApi(litserve.LitAPI):
    """Made in the server's process; `setup` runs in the worker's."""

    def __init__(self, model: str, backend: str) -> None:
        super().__init__(api_path="/detect")
        self._model, self._backend = model, backend

    def setup(self, device: str) -> None:
        self.detector = Detector(self._model, self._backend)

    def decode_request(self, request):
        return request["image"].file.read()

    def predict(self, photo: bytes) -> dict[str, Any]:
        return self.detector.detect(photo)

    def encode_response(self, output: dict[str, Any]) -> dict[str, Any]:
        return output


def main(
    port: Annotated[int, typer.Option(help="Where to listen.")] = 9000,
    model: Annotated[str, typer.Option(help="Name or folder of the model.")] = "cells",
    backend: Annotated[str, typer.Option(help="Runtime: onnxruntime, or sleep:MS.")] = "onnxruntime",
) -> None:
    """Serve until stopped."""
    server = litserve.LitServer(DetectApi(model, backend), accelerator="cpu")
    server.run(host="127.0.0.1", port=port, log_level="warning", generate_client_file=False)


if __name__ == "__main__":
    typer.run(main)
