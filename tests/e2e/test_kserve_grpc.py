"""KServe V2 over gRPC, spoken by the real tritonclient through sockets."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

from service import errors
from service.inflight import Requests
from service.kserve.grpc_server import GrpcServer
from service.kserve.proto import messages
from service.kserve.proto.descriptor import DESCRIPTOR
from service.metrics import Metrics
from service.settings import Settings
from tests.factories import encode, make_tiny_artifact, tiles_image
from tests.kserve_descriptor import TARGET, compiled, module_text
from tests.server_process import GREEN_BOX, RED_BOX, REPOSITORY, TILES, ServerProcess, serving, wait_until

BLACK = encode(np.zeros((96, 160, 3), np.uint8))
LARGE = encode(tiles_image(300, 500))


def address(server: ServerProcess) -> str:
    return f"127.0.0.1:{int(server.ready_line.rpartition('gRPC port: ')[2].rstrip().rstrip(')'))}"


@pytest.fixture(scope="module")
def grpc_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("grpc")
    make_tiny_artifact(folder / "tiny")
    make_tiny_artifact(folder / "plain", name="plain", localization=False)
    models = ("--model", str(folder / "tiny"), "--model", str(folder / "plain"))
    with serving(folder, *models, "--grpc-port", "0", grpc_max_message_bytes=1_000_000) as running:
        yield running
        assert [record for record in running.log() if record["level"] == "error"] == []


@pytest.fixture(scope="module")
def client(grpc_server: ServerProcess) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(address(grpc_server)) as opened:
        yield opened


@pytest.fixture(scope="module")
def stub(grpc_server: ServerProcess) -> Iterator[service_pb2_grpc.GRPCInferenceServiceStub]:
    """For requests that tritonclient's own client does not make."""
    with grpc.insecure_channel(address(grpc_server)) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


def images_input(images: list[bytes]) -> triton.InferInput:
    tensor = triton.InferInput("image", [len(images)], "BYTES")
    return tensor.set_data_from_numpy(np.array(images, object))


def tensor_inputs(count: int = 1, **changed: np.ndarray) -> list[triton.InferInput]:
    values: dict[str, np.ndarray] = {
        "images": np.stack([tiles_image()] * count),
        "image_sizes": np.array([[96, 160]] * count, np.int64),
        **changed,
    }
    kinds = {"uint8": "UINT8", "int64": "INT64", "float32": "FP32"}
    return [
        triton.InferInput(name, list(array.shape), kinds[str(array.dtype)]).set_data_from_numpy(array)
        for name, array in values.items()
    ]


def refused(call: Any, *arguments: Any, **options: Any) -> tuple[str, str]:
    """The code and the message of the error that `call` ends with."""
    with pytest.raises(InferenceServerException) as caught:
        call(*arguments, **options)
    return caught.value.status().removeprefix("StatusCode."), caught.value.message()


def test_the_descriptor_is_made_of_the_proto_and_agrees_with_the_public_one() -> None:
    assert compiled() == DESCRIPTOR and TARGET.read_text() == module_text(DESCRIPTOR)
    theirs = service_pb2.DESCRIPTOR
    service = theirs.services_by_name["GRPCInferenceService"]
    for name, (request, response) in messages.methods().items():
        method = service.methods_by_name[name]
        for ours, other in (
            (request.DESCRIPTOR, method.input_type),
            (response.DESCRIPTOR, method.output_type),
        ):
            assert_same_wire(ours, other, set())


def assert_same_wire(ours: Any, theirs: Any, seen: set[str]) -> None:
    """Every field of ours is one of theirs: number, type, repeated or not; messages in messages too."""
    assert ours.full_name == theirs.full_name
    if ours.full_name in seen:
        return
    seen.add(ours.full_name)
    for field in ours.fields:
        other = theirs.fields_by_name[field.name]
        assert (field.number, field.type, field.is_repeated) == (other.number, other.type, other.is_repeated)
        if field.message_type is not None:
            assert_same_wire(field.message_type, other.message_type, seen)
        if field.enum_type is not None:
            values = {value.name: value.number for value in other.enum_type.values}
            assert {value.name: value.number for value in field.enum_type.values}.items() <= values.items()


def test_health_and_metadata(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live() and client.is_server_ready()
    assert client.is_model_ready("tiny") and client.is_model_ready("plain.tensor", "1")
    assert refused(client.is_model_ready, "none")[0] == "NOT_FOUND"
    server = client.get_server_metadata()
    assert server.name == "hindsight" and "model_configuration" in server.extensions
    model = client.get_model_metadata("tiny", "1")
    assert [(each.name, each.datatype, list(each.shape)) for each in model.inputs] == [
        ("image", "BYTES", [-1])
    ]
    assert list(model.versions) == ["1"] and "purities" in {each.name for each in model.outputs}
    tensor = client.get_model_metadata("plain.tensor")
    assert "purities" not in {each.name for each in tensor.outputs}
    config = client.get_model_config("tiny.tensor").config
    assert config.max_batch_size == 0 and config.parameters["classes"].string_value == "red,green,blue"
    assert [each.optional for each in config.input] == [False, False, True, True, True, True]
    index = client.get_model_repository_index().models
    assert {(each.name, each.state) for each in index} == {
        (name, "READY") for name in ("tiny", "tiny.tensor", "plain", "plain.tensor")
    }


def test_images_are_answered_as_detect_answers_them(
    client: triton.InferenceServerClient, grpc_server: ServerProcess
) -> None:
    options = {"score_threshold": "0.2", "nms_threshold": "0.5", "max_detections": 7}
    result = client.infer("tiny", [images_input([LARGE])], request_id="seven", parameters=options)
    expected = grpc_server.client.post("/detect", content=LARGE, params=options).json()["detections"]
    response = result.get_response()
    assert (response.id, response.model_name, response.model_version) == ("seven", "tiny", "1")
    assert result.as_numpy("num_detections").tolist() == [len(expected)] and len(expected) > 0
    assert result.as_numpy("boxes")[0] == pytest.approx(
        np.array([each["box"] for each in expected]), abs=1e-2
    )
    assert result.as_numpy("label_names")[0].tolist() == [each["label"].encode() for each in expected]
    for output, key in [("scores", "score"), ("class_scores", "class_score"), ("ious", "iou")]:
        assert result.as_numpy(output)[0] == pytest.approx([each[key] for each in expected], abs=1e-5)
    for output, key in [("purities", "purity"), ("integrities", "integrity")]:
        assert result.as_numpy(output)[0] == pytest.approx([each[key] for each in expected], abs=1e-5)
    several = client.infer("tiny", [images_input([BLACK, TILES])])
    assert several.as_numpy("num_detections").tolist() == [0, 2]
    assert several.as_numpy("boxes")[1].tolist() == [RED_BOX, GREEN_BOX]
    assert client.infer("tiny", [images_input([BLACK])]).as_numpy("boxes").shape == (1, 0, 4)


def test_the_tensor_model_and_chosen_outputs(client: triton.InferenceServerClient) -> None:
    outputs = [triton.InferRequestedOutput(name) for name in ("scores", "boxes")]
    thresholds = {"class_threshold": np.array([0.05, 0.99], np.float32)}
    result = client.infer("tiny.tensor", tensor_inputs(2, **thresholds), outputs=outputs)
    assert [each.name for each in result.get_response().outputs] == ["scores", "boxes"]
    assert result.as_numpy("boxes").shape == (2, 20, 4)
    assert result.as_numpy("boxes")[0, :2].tolist() == [RED_BOX, GREEN_BOX]
    assert (result.as_numpy("scores") > 0).sum(axis=1).tolist() == [2, 1]


def test_typed_contents(stub: service_pb2_grpc.GRPCInferenceServiceStub) -> None:
    def tensor(name: str, datatype: str, shape: list[int], **contents: Any) -> Any:
        contents_of = service_pb2.InferTensorContents(**contents)
        return service_pb2.ModelInferRequest.InferInputTensor(
            name=name, datatype=datatype, shape=shape, contents=contents_of
        )

    image = tensor("image", "BYTES", [1], bytes_contents=[TILES])
    response = stub.ModelInfer(service_pb2.ModelInferRequest(model_name="tiny", inputs=[image]), timeout=60)
    counts = next(index for index, each in enumerate(response.outputs) if each.name == "num_detections")
    assert np.frombuffer(response.raw_output_contents[counts], np.int64).tolist() == [2]
    inputs = [
        tensor("images", "UINT8", [1, 96, 160, 3], uint_contents=tiles_image().ravel().tolist()),
        tensor("image_sizes", "INT64", [1, 2], int64_contents=[96, 160]),
        tensor("iou_weight", "FP32", [1], fp32_contents=[0.0]),
    ]
    request = service_pb2.ModelInferRequest(model_name="tiny.tensor", inputs=inputs)
    assert len(stub.ModelInfer(request, timeout=60).raw_output_contents) == 8
    wrong = tensor("image_sizes", "INT64", [1, 2], int_contents=[96, 160])
    for bad, words in [
        ([inputs[0], wrong], "needs int64_contents"),
        ([tensor("images", "FP16", [1], fp32_contents=[1])], "needs raw_input_contents"),
        ([tensor("images", "UINT8", [1, 1, 1, 3], uint_contents=[256] * 3)], "does not fit"),
        ([tensor("images", "UINT8", [-1, 1, 1, 3], uint_contents=[1] * 3)], "whole number"),
        ([tensor("iou_weight", "FP32", [1], fp32_contents=[float("nan")]), *inputs[:2]], "nan"),
        ([tensor("images", "UINT8", [1, 1, 1, 3])], "0 values"),
    ]:
        with pytest.raises(grpc.RpcError) as caught:
            stub.ModelInfer(service_pb2.ModelInferRequest(model_name="tiny.tensor", inputs=bad), timeout=60)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT  # type: ignore[attr-defined]
        assert words in caught.value.details()  # type: ignore[attr-defined]
    for mixed in (
        service_pb2.ModelInferRequest(model_name="tiny", inputs=[image], raw_input_contents=[b"x"]),
        service_pb2.ModelInferRequest(model_name="tiny", inputs=[image], raw_input_contents=[b"x"] * 2),
    ):
        with pytest.raises(grpc.RpcError, match="raw_input_contents"):
            stub.ModelInfer(mixed, timeout=60)


def test_errors_have_grpcs_codes(client: triton.InferenceServerClient) -> None:
    infer = client.infer
    assert refused(infer, "tny", [images_input([TILES])])[0] == "NOT_FOUND"
    assert refused(infer, "tiny", [images_input([TILES])], model_version="7")[0] == "NOT_FOUND"
    code, message = refused(infer, "tiny", [images_input([TILES, b"no image"])])
    assert code == "INVALID_ARGUMENT" and message.startswith("image 1: ")
    code, message = refused(infer, "tiny", [images_input([TILES])], parameters={"score_treshold": "1"})
    assert code == "INVALID_ARGUMENT" and "'score_threshold'" in message
    code, message = refused(infer, "tiny.tensor", tensor_inputs(images=np.zeros((1, 100, 160, 3), np.uint8)))
    assert code == "INVALID_ARGUMENT" and "multiple of 32" in message
    assert "sequences" in refused(infer, "tiny", [images_input([TILES])], sequence_id=3)[1]
    ranked = [triton.InferRequestedOutput("scores", class_count=3)]
    assert "classification" in refused(infer, "tiny", [images_input([TILES])], outputs=ranked)[1]
    shared = triton.InferInput("image", [1], "BYTES")
    shared.set_shared_memory("region", 8)
    assert "shared_memory" in refused(infer, "tiny", [shared])[1]
    code, message = refused(infer, "tiny", [images_input([bytes(1_100_000)])])
    assert code == "RESOURCE_EXHAUSTED" and "1000000" in message
    packed = refused(infer, "tiny", [images_input([TILES])], compression_algorithm="gzip")
    assert packed[0] == "UNIMPLEMENTED"
    assert refused(client.load_model, "tiny")[0] == "PERMISSION_DENIED"
    assert refused(client.get_log_settings)[0] == "UNIMPLEMENTED"
    assert client.is_server_ready()


def test_bytes_that_are_no_message(grpc_server: ServerProcess, client: triton.InferenceServerClient) -> None:
    with grpc.insecure_channel(address(grpc_server)) as channel:
        for method in ("ModelInfer", "ModelMetadata"):
            call = channel.unary_unary(f"/inference.GRPCInferenceService/{method}")
            for garbage in (b"\xff" * 100, b"\x0a\xff\xff\xff\xff\x0f", b"\x0a\x02\xff\xfe"):
                with pytest.raises(grpc.RpcError, match="the request is no"):
                    call(garbage, timeout=60)
    assert client.is_server_ready()


def test_request_ids_metrics_and_logs(
    stub: service_pb2_grpc.GRPCInferenceServiceStub, grpc_server: ServerProcess
) -> None:
    request = service_pb2.ModelMetadataRequest(name="tiny")
    _, call = stub.ModelMetadata.with_call(request, metadata=[("x-request-id", "mine-1")], timeout=60)
    assert ("x-request-id", "mine-1") in [tuple(each) for each in call.trailing_metadata()]
    line = next(each for each in grpc_server.log("request") if each["request_id"] == "mine-1")
    assert line["path"].endswith("/ModelMetadata") and line["status"] == "OK"
    assert line["client"] == "127.0.0.1"
    one = service_pb2.ModelInferRequest.InferInputTensor(name="image", datatype="BYTES", shape=[1])
    one.contents.bytes_contents.append(TILES)
    infer = service_pb2.ModelInferRequest(model_name="tiny", inputs=[one])
    stub.ModelInfer(infer, metadata=[("x-request-id", "mine-2")], timeout=60)
    line = next(each for each in grpc_server.log("request") if each["request_id"] == "mine-2")
    assert (line["model"], line["images"]) == ("tiny", 1) and line["stages_ms"]["model"] > 0
    assert 'method="gRPC"' in grpc_server.client.get("/metrics").text


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A model that takes half a second an image, one at a time; three images of one client may wait."""
    folder = tmp_path_factory.mktemp("patient")
    make_tiny_artifact(folder / "tiny")
    options = {"max_queue": 4, "max_images": 2, "max_batch": 1, "max_queue_seconds": 60}
    arguments = ("--model", str(folder / "tiny"), "--backend", "sleep:500", "--grpc-port", "0")
    with serving(folder, *arguments, **options) as running:
        yield running


def test_deadlines_cancelled_calls_and_a_full_queue(patient: ServerProcess) -> None:
    def batches() -> float:
        return patient.metric("hindsight_batch_size_count")

    def queued(count: int) -> None:
        wait_until(lambda: patient.metric("hindsight_queue_depth") == count, f"{count} to wait")

    with triton.InferenceServerClient(address(patient)) as client, ThreadPoolExecutor(4) as clients:
        before = batches()
        running = clients.submit(client.infer, "tiny", [images_input([TILES])])
        wait_until(lambda: batches() == before + 1, "one to run")
        code, _ = refused(client.infer, "tiny", [images_input([TILES])], client_timeout=0.1)
        assert code in ("UNAVAILABLE", "DEADLINE_EXCEEDED")  # hopeless: told at once, if it comes in time
        code, message = refused(client.infer, "tiny", [images_input([TILES])], timeout=50_000)
        assert code == "UNAVAILABLE" and "would wait" in message
        running.result()
        queued(0)
        assert batches() == before + 1
        running = clients.submit(client.infer, "tiny", [images_input([TILES])])
        wait_until(lambda: batches() == before + 2, "another to run")
        ended: list[Any] = []
        waiting = [
            client.async_infer("tiny", [images_input([TILES])], lambda result, error: ended.append(error))
            for _ in range(3)
        ]
        queued(3)
        code, message = refused(client.infer, "tiny", [images_input([TILES])])
        assert code == "UNAVAILABLE" and "3 images wait" in message
        for each in waiting:
            each.cancel()
        queued(0)
        running.result()
        wait_until(lambda: len(ended) == 3, "all to have ended")
        assert batches() == before + 2


def test_calls_under_way_are_answered_before_the_server_stops(tmp_path: Path) -> None:
    make_tiny_artifact(tmp_path / "tiny")
    arguments = ("--model", str(tmp_path / "tiny"), "--backend", "sleep:1500", "--grpc-port", "0")
    with serving(tmp_path, *arguments) as server:
        with triton.InferenceServerClient(address(server)) as client, ThreadPoolExecutor(1) as clients:
            before = server.metric("hindsight_batch_size_count")
            running = clients.submit(client.infer, "tiny", [images_input([TILES])])
            wait_until(lambda: server.metric("hindsight_batch_size_count") == before + 1, "one to run")
            server.process.send_signal(signal.SIGTERM)
            assert running.result().as_numpy("num_detections").tolist() == [0]
            wait_until(lambda: not is_live(client), "new calls to be refused")
        assert server.close() == 0


def test_a_second_signal_does_not_wait_for_calls(tmp_path: Path) -> None:
    make_tiny_artifact(tmp_path / "tiny")
    arguments = ("--model", str(tmp_path / "tiny"), "--backend", "sleep:1", "--grpc-port", "0")
    with serving(tmp_path, *arguments, hang_timeout=100) as server:
        with triton.InferenceServerClient(address(server)) as client, ThreadPoolExecutor(1) as clients:
            os.kill(server.worker_pid(), signal.SIGSTOP)  # nothing will be answered
            before = server.metric("hindsight_batch_size_count")
            running = clients.submit(refused, client.infer, "tiny", [images_input([TILES])])
            wait_until(lambda: server.metric("hindsight_batch_size_count") == before + 1, "one to run")
            server.client.close()
            start = time.monotonic()
            server.process.send_signal(signal.SIGTERM)
            wait_until(lambda: bool(server.log("stopping")), "the first signal to be heard")
            server.process.send_signal(signal.SIGTERM)
            assert running.result()[0] in ("CANCELLED", "UNAVAILABLE")
            assert server.process.wait(60) == 0
        assert time.monotonic() - start < 15


def is_live(client: triton.InferenceServerClient) -> bool:
    try:
        return bool(client.is_server_live(client_timeout=1))
    except InferenceServerException:
        return False


def test_a_port_that_is_taken_is_told_in_one_line(grpc_server: ServerProcess) -> None:
    port = address(grpc_server).rpartition(":")[2]
    ended = subprocess.run(
        [sys.executable, "-m", "service", "--port", "0", "--grpc-port", port],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 2 and ended.stderr.count("\n") == 1 and port in ended.stderr, ended.stderr


def test_a_missing_package_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "grpc").mkdir()
    (tmp_path / "grpc" / "__init__.py").write_text("raise ImportError('No module named grpc')\n")
    ended = subprocess.run(
        [sys.executable, "-m", "service", "--port", "0", "--grpc-port", "0"],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 2 and ended.stderr.count("\n") == 1, ended.stderr
    assert 'pip install ".[grpc]"' in ended.stderr


def test_the_hook_for_keys_refuses_calls() -> None:
    """What is put there decides by method and metadata, before anything else is looked at."""

    async def with_a_key(method: str, metadata: Mapping[str, str]) -> None:
        if method != "ServerLive" and metadata.get("authorization") != "Bearer good":
            raise errors.Busy("come back with a key", retry_after=2.5, hold=0.4)

    async def calls() -> None:
        services = SimpleNamespace(settings=Settings(), metrics=Metrics(), ready=True, requests=Requests())
        server = GrpcServer(services, with_a_key)  # type: ignore[arg-type]  # as much as these calls look at
        await server.start("127.0.0.1", 0)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            assert (await stub.ServerLive(service_pb2.ServerLiveRequest())).live
            metadata = [("authorization", "Bearer good")]
            assert (await stub.ServerReady(service_pb2.ServerReadyRequest(), metadata=metadata)).ready
            with pytest.raises(grpc.aio.AioRpcError, match="come back with a key") as caught:
                await stub.ServerReady(service_pb2.ServerReadyRequest())
            trailing = dict(caught.value.trailing_metadata())
            assert trailing["retry-after"] == "3" and trailing["grpc-retry-pushback-ms"] == "2900"
        await server.stop(1)

    asyncio.run(calls())
