"""KServe V2 over REST, spoken by the real tritonclient through sockets."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from service.settings import Settings
from tests.e2e.triton_http import TritonClient
from tests.factories import encode, tiles_image
from tests.server_process import GREEN_BOX, RED_BOX, TILES, ServerProcess

pytestmark = pytest.mark.usefixtures("healthy_afterwards")
TENSOR_OUTPUTS = {
    "num_detections", "boxes", "labels", "scores", "class_scores", "ious", "purities", "integrities",
}  # fmt: skip
MOST = Settings().max_images
BLACK = encode(np.zeros((96, 160, 3), np.uint8))
LARGE = encode(tiles_image(300, 500))


@pytest.fixture(scope="module")
def client_of_triton(server: ServerProcess) -> Iterator[triton.InferenceServerClient]:
    with TritonClient(f"127.0.0.1:{server.port}", network_timeout=60) as opened:
        yield opened


def images_input(images: list[bytes]) -> triton.InferInput:
    tensor = triton.InferInput("image", [len(images)], "BYTES")
    return tensor.set_data_from_numpy(np.array(images, object))


def tensor_inputs(count: int = 2, *, binary: bool = True, **changed: np.ndarray) -> list[triton.InferInput]:
    """The tiles `count` times, letterboxed as they are. changed: other values, by name."""
    values: dict[str, np.ndarray] = {
        "images": np.stack([tiles_image()] * count),
        "image_sizes": np.array([[96, 160]] * count, np.int64),
        "class_threshold": np.full(count, 0.05, np.float32),
        "score_threshold": np.full(count, 0.3, np.float32),
        "iou_weight": np.full(count, 0.5, np.float32),
        "nms_threshold": np.array([0.5], np.float32),
        **changed,
    }
    kinds = {"uint8": "UINT8", "int64": "INT64", "float32": "FP32", "int32": "INT32"}
    inputs = []
    for name, array in values.items():
        tensor = triton.InferInput(name, list(array.shape), kinds[str(array.dtype)])
        inputs.append(tensor.set_data_from_numpy(array, binary_data=binary))
    return inputs


def refused(call: Any, *arguments: Any, **options: Any) -> tuple[str, str]:
    """The status and the message of the error that `call` ends with."""
    with pytest.raises(InferenceServerException) as caught:
        call(*arguments, **options)
    return caught.value.status(), caught.value.message()


def test_health_and_metadata(client_of_triton: triton.InferenceServerClient) -> None:
    assert client_of_triton.is_server_live() and client_of_triton.is_server_ready()
    for name in ("tiny", "tiny.tensor", "plain", "masked.tensor"):
        assert client_of_triton.is_model_ready(name) and client_of_triton.is_model_ready(name, "1")
    assert not client_of_triton.is_model_ready("none")
    server = client_of_triton.get_server_metadata()
    assert server["name"] == "hindsight" and "binary_tensor_data" in server["extensions"]
    model = client_of_triton.get_model_metadata("tiny", "1")
    assert model["name"] == "tiny" and model["versions"] == ["1"]
    assert model["inputs"] == [{"name": "image", "datatype": "BYTES", "shape": [-1]}]
    assert {each["name"] for each in model["outputs"]} == TENSOR_OUTPUTS | {"label_names"}
    tensor = client_of_triton.get_model_metadata("tiny.tensor")
    assert {each["name"]: (each["datatype"], each["shape"]) for each in tensor["inputs"]} == {
        "images": ("UINT8", [-1, -1, -1, 3]),
        "image_sizes": ("INT64", [-1, 2]),
        "class_threshold": ("FP32", [-1]),
        "score_threshold": ("FP32", [-1]),
        "iou_weight": ("FP32", [-1]),
        "nms_threshold": ("FP32", [1]),
    }
    assert {each["name"]: each["shape"] for each in tensor["outputs"]}["boxes"] == [-1, 20, 4]
    plain = client_of_triton.get_model_metadata("plain.tensor")
    assert {each["name"] for each in plain["outputs"]} == TENSOR_OUTPUTS - {"ious", "purities", "integrities"}
    config = client_of_triton.get_model_config("tiny.tensor")
    assert config["max_batch_size"] == 0 and config["input"][0]["data_type"] == "TYPE_UINT8"
    assert config["parameters"]["classes"]["string_value"] == "red,green,blue"
    index = client_of_triton.get_model_repository_index()
    assert {each["name"] for each in index} >= {"tiny", "tiny.tensor", "plain", "masked"}
    assert {each["state"] for each in index} == {"READY"}


@pytest.mark.parametrize("binary", [True, False])
def test_an_image_is_answered_as_detect_answers_it(
    client_of_triton: triton.InferenceServerClient, client: httpx.Client, binary: bool
) -> None:
    names = sorted(TENSOR_OUTPUTS | {"label_names"})
    outputs = [triton.InferRequestedOutput(name, binary_data=binary) for name in names]
    result = client_of_triton.infer(
        "tiny",
        [images_input([LARGE])],
        outputs=outputs,
        request_id="seven",
        parameters={"score_threshold": 0.2, "nms_threshold": "0.5", "max_detections": 7},
    )
    query = {"score_threshold": 0.2, "nms_threshold": 0.5, "max_detections": 7}
    expected = client.post("/detect", content=LARGE, params=query).json()["detections"]
    response = result.get_response()
    assert response["id"] == "seven" and response["model_name"] == "tiny" and response["model_version"] == "1"
    assert [each["name"] for each in response["outputs"]] == names
    assert result.as_numpy("num_detections").tolist() == [len(expected)] and len(expected) > 0
    assert result.as_numpy("boxes")[0] == pytest.approx(
        np.array([each["box"] for each in expected]), abs=1e-2
    )
    assert result.as_numpy("labels")[0].tolist() == [each["label_id"] for each in expected]
    named = [
        each if isinstance(each, str) else each.decode()
        for each in result.as_numpy("label_names")[0].tolist()
    ]
    assert named == [each["label"] for each in expected]
    for output, key in [("scores", "score"), ("class_scores", "class_score"), ("ious", "iou")]:
        assert result.as_numpy(output)[0] == pytest.approx([each[key] for each in expected], abs=1e-5)
    for output, key in [("purities", "purity"), ("integrities", "integrity")]:
        assert result.as_numpy(output)[0] == pytest.approx([each[key] for each in expected], abs=1e-5)


def test_several_images_are_padded_to_the_largest_count(
    client_of_triton: triton.InferenceServerClient,
) -> None:
    result = client_of_triton.infer("tiny", [images_input([BLACK, TILES, TILES])])
    assert result.as_numpy("num_detections").tolist() == [0, 2, 2]
    assert result.as_numpy("boxes").tolist() == [[[0] * 4] * 2, [RED_BOX, GREEN_BOX], [RED_BOX, GREEN_BOX]]
    assert result.as_numpy("label_names").tolist() == [[b"", b""], [b"red", b"green"], [b"red", b"green"]]
    nothing = client_of_triton.infer("tiny", [images_input([BLACK])])
    assert nothing.as_numpy("boxes").shape == (1, 0, 4) and nothing.as_numpy("scores").shape == (1, 0)


def test_options_reach_the_model(client_of_triton: triton.InferenceServerClient) -> None:
    def labels(**parameters: object) -> list[bytes]:
        result = client_of_triton.infer("tiny", [images_input([TILES])], parameters=parameters)
        found: list[bytes] = result.as_numpy("label_names")[0].tolist()
        return found

    assert labels(max_detections=1) == labels(max_detections="1") == [b"red"]
    assert labels(classes="green") == [b"green"]
    assert labels(classes="green, red") == [b"red", b"green"]
    assert labels(class_threshold=0.99) == labels(class_threshold="0.99") == [b"red"]
    assert labels(score_threshold=1.0) == []
    status, message = refused(
        client_of_triton.infer, "tiny", [images_input([TILES])], parameters={"score_treshold": 1}
    )
    assert status == "422" and "'score_threshold'" in message


@pytest.mark.parametrize("binary", [True, False])
def test_the_tensor_model_is_model_onnx_itself(
    client_of_triton: triton.InferenceServerClient, binary: bool
) -> None:
    inputs = tensor_inputs(
        2,
        binary=binary,
        image_sizes=np.array([[96, 160], [96, 120]], np.int64),
        class_threshold=np.array([0.05, 0.99], np.float32),
    )
    outputs = [triton.InferRequestedOutput(name, binary_data=binary) for name in sorted(TENSOR_OUTPUTS)]
    result = client_of_triton.infer("tiny.tensor", inputs, outputs=outputs)
    assert result.as_numpy("num_detections").tolist() == [2, 1]
    boxes = result.as_numpy("boxes")
    assert boxes.shape == (2, 20, 4) and boxes.dtype == np.float32
    assert boxes[0, :2].tolist() == [RED_BOX, GREEN_BOX] and boxes[1, 0].tolist() == RED_BOX
    assert not boxes[0, 2:].any()
    assert result.as_numpy("labels").dtype == np.int64
    assert result.as_numpy("ious")[0, 0] == pytest.approx(0.8, abs=1e-4)


def test_thresholds_left_out_are_the_models_defaults(client_of_triton: triton.InferenceServerClient) -> None:
    result = client_of_triton.infer("tiny.tensor", tensor_inputs()[:2])
    assert result.as_numpy("num_detections").tolist() == [2, 2]
    masks = client_of_triton.infer("masked.tensor", tensor_inputs(1)).as_numpy("masks")
    assert masks.shape == (1, 20, 4, 4) and masks[0, 0, :, :2].min() > 0.5 > masks[0, 0, :, 2:].max()


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_both_directions_may_be_compressed(
    client_of_triton: triton.InferenceServerClient, algorithm: str
) -> None:
    result = client_of_triton.infer(
        "tiny.tensor",
        tensor_inputs(4),
        request_compression_algorithm=algorithm,
        response_compression_algorithm=algorithm,
    )
    assert result.as_numpy("boxes")[3, :2].tolist() == [RED_BOX, GREEN_BOX]


def test_unknown_models_versions_and_paths(client_of_triton: triton.InferenceServerClient) -> None:
    assert refused(client_of_triton.infer, "tny", [images_input([TILES])])[0] == "404"
    status, message = refused(client_of_triton.infer, "tiny", [images_input([TILES])], model_version="2")
    assert status == "404" and "'2'" in message
    assert refused(client_of_triton.get_model_metadata, "none.tensor")[0] == "404"
    status, message = refused(client_of_triton.load_model, "tiny")
    assert status == "403" and "no admin key" in message  # with one: test_kserve_repository.py
    assert "not offered" in refused(client_of_triton.get_log_settings)[1]


@pytest.mark.parametrize(
    ("changed", "status", "words"),
    [
        ({"images": np.zeros((2, 100, 160, 3), np.uint8)}, "400", "multiple of 32 in 32..160, got 100"),
        ({"images": np.zeros((2, 96, 192, 3), np.uint8)}, "400", "got 192"),
        ({"images": np.zeros((2, 0, 160, 3), np.uint8)}, "400", "got 0"),
        ({"images": np.zeros((2, 96, 160, 4), np.uint8)}, "400", "[-1, -1, -1, 3]"),
        ({"images": np.zeros((96, 160, 3), np.uint8)}, "400", "expected shape"),
        ({"images": np.zeros((2, 96, 160, 3), np.float32)}, "400", "expected datatype UINT8"),
        ({"images": np.zeros((MOST + 1, 32, 32, 3), np.uint8)}, "413", f"at most {MOST}"),
        ({"images": np.zeros((0, 32, 32, 3), np.uint8)}, "400", "empty"),
        ({"image_sizes": np.array([[96, 160]], np.int64)}, "400", "2 images and 1"),
        ({"image_sizes": np.array([[96, 160], [96, 161]], np.int64)}, "400", "1..160"),
        ({"image_sizes": np.array([[96, 160], [0, 160]], np.int64)}, "400", "1..96"),
        ({"image_sizes": np.array([[96, 160], [-5, 160]], np.int64)}, "400", "1..96"),
        ({"image_sizes": np.array([[96, 160], [96, 160]], np.int32)}, "400", "expected datatype INT64"),
        ({"class_threshold": np.array([0.1], np.float32)}, "400", "2 images and 1"),
        ({"class_threshold": np.array([0.1, np.nan], np.float32)}, "422", "nan"),
        ({"score_threshold": np.array([np.inf, 0.1], np.float32)}, "422", "inf"),
        ({"iou_weight": np.array([0.1, -0.1], np.float32)}, "422", "iou_weight"),
        ({"nms_threshold": np.array([0.0], np.float32)}, "422", "nms_threshold"),
        ({"nms_threshold": np.array([0.5, 0.5], np.float32)}, "400", "expected shape [1]"),
        ({"colour": np.array([0.5], np.float32)}, "400", "unknown input 'colour'"),
    ],
)
def test_bad_tensors_never_reach_a_worker(
    client_of_triton: triton.InferenceServerClient,
    server: ServerProcess,
    changed: dict[str, np.ndarray],
    status: str,
    words: str,
) -> None:
    before = server.metric("hindsight_batch_size_count")
    answer = refused(client_of_triton.infer, "tiny.tensor", tensor_inputs(**changed))
    assert answer[0] == status and words in answer[1], answer
    assert server.metric("hindsight_batch_size_count") == before


def test_bad_images_and_requests(client_of_triton: triton.InferenceServerClient) -> None:
    infer = client_of_triton.infer
    status, message = refused(infer, "tiny", [images_input([TILES, b"no image"])])
    assert status == "415" and message.startswith("image 1: ")
    assert refused(infer, "tiny", [images_input([TILES[:200]])])[0] == "422"
    assert refused(infer, "tiny", [images_input([TILES] * (MOST + 1))])[0] == "413"
    assert "missing input image_sizes" in refused(infer, "tiny.tensor", tensor_inputs()[:1])[1]
    assert "missing input image" in refused(infer, "tiny", [])[1]
    assert "twice" in refused(infer, "tiny", [images_input([TILES]), images_input([TILES])])[1]
    unknown = [triton.InferRequestedOutput("masks")]
    assert "unknown output 'masks'" in refused(infer, "tiny", [images_input([TILES])], outputs=unknown)[1]
    ranked = [triton.InferRequestedOutput("scores", class_count=3)]
    assert "classification" in refused(infer, "tiny", [images_input([TILES])], outputs=ranked)[1]
    shared = triton.InferInput("image", [1], "BYTES").set_shared_memory("region", 8)
    assert "shared_memory_region" in refused(infer, "tiny", [shared])[1]
    assert "sequences" in refused(infer, "tiny", [images_input([TILES])], sequence_id=3)[1]
    assert "priorities" in refused(infer, "tiny", [images_input([TILES])], priority=1)[1]
    with_text = triton.InferInput("image", [1], "BYTES")
    with_text.set_data_from_numpy(np.array([b"not base64!"], object), binary_data=False)
    assert "base64" in refused(infer, "tiny", [with_text])[1]
    assert "parameters" in refused(infer, "tiny.tensor", tensor_inputs(), parameters={"a": 1})[1]


def test_a_body_over_the_limit(client_of_triton: triton.InferenceServerClient) -> None:
    too_big = np.zeros((16, 1056, 1056, 3), np.uint8)
    status, message = refused(client_of_triton.infer, "tiny.tensor", tensor_inputs(images=too_big))
    assert status == "413" and "50000000" in message
