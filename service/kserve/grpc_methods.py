"""What each method of inference.GRPCInferenceService answers. Errors are HindsightError, as for REST."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import DecodeError

from service.callers import Caller
from service.errors import BadBody
from service.kserve import models, repository
from service.kserve.call import Call, checked, chosen
from service.kserve.grpc_messages import call_of, infer_response
from service.kserve.proto.messages import message
from service.kserve.tensors import Values
from service.pipeline import Services


@dataclass(frozen=True)
class Asked:
    """A call's message, its class, and whose it is."""

    data: bytes
    kind: Any
    caller: Caller

    def request(self) -> Any:
        """The message, parsed. Raises BadBody."""
        try:
            return self.kind.FromString(self.data)
        except DecodeError:
            raise BadBody(f"the request is no {self.kind.DESCRIPTOR.name}") from None


Method = Callable[[Services, Asked], Awaitable[Any]]


async def _server_live(services: Services, asked: Asked) -> Any:
    return message("ServerLiveResponse")(live=True)


async def _server_ready(services: Services, asked: Asked) -> Any:
    return message("ServerReadyResponse")(ready=services.ready)


async def _model_ready(services: Services, asked: Asked) -> Any:
    _model_of(services, asked)
    return message("ModelReadyResponse")(ready=services.ready)


async def _server_metadata(services: Services, asked: Asked) -> Any:
    return message("ServerMetadataResponse")(**models.server_metadata())


async def _model_metadata(services: Services, asked: Asked) -> Any:
    model = _model_of(services, asked)
    return message("ModelMetadataResponse")(**models.model_metadata(services, model))


async def _model_config(services: Services, asked: Asked) -> Any:
    model = _model_of(services, asked)
    return message("ModelConfigResponse")(config=models.model_config(model))


def _model_of(services: Services, asked: Asked) -> models.Model:
    request = asked.request()
    return models.find_model(services, request.name, request.version)


async def _repository_index(services: Services, asked: Asked) -> Any:
    entries = await repository.index(services, asked.request().ready)
    return message("RepositoryIndexResponse")(models=entries)


async def _load(services: Services, asked: Asked) -> Any:
    request = _of_the_one_repository(asked.request())
    await repository.load(services, request.model_name, request.parameters)
    return message("RepositoryModelLoadResponse")()


async def _unload(services: Services, asked: Asked) -> Any:
    request = _of_the_one_repository(asked.request())
    await repository.unload(services, request.model_name, request.parameters)
    return message("RepositoryModelUnloadResponse")()


def _of_the_one_repository(request: Any) -> Any:
    if request.repository_name:
        name = request.repository_name[:64]
        raise BadBody(f"there is one repository here, without a name; got repository_name {name!r}")
    return request


async def _model_infer(services: Services, asked: Asked) -> Any:
    with services.budget.lease() as lease:
        lease.take(len(asked.data))
        model, call, inputs = await services.pool.run_if_large(len(asked.data), _read_call, services, asked)
        outputs = await model.infer(services, inputs, call.parameters, call.narrowed(asked.caller))
    version = model.artifact.manifest.version
    return infer_response(model.name, version, call.id, chosen(outputs, call.outputs))


def _read_call(services: Services, asked: Asked) -> tuple[models.Model, Call, Mapping[str, Values]]:
    """In one go, as for REST: a message may grow eightfold when it is parsed."""
    request = asked.request()
    model = models.find_model(services, request.model_name, request.model_version)
    most = services.settings.max_images
    return model, *checked(call_of(request), model.inputs, model.outputs, most)


METHODS: dict[str, Method] = {
    "ServerLive": _server_live,
    "ServerReady": _server_ready,
    "ModelReady": _model_ready,
    "ServerMetadata": _server_metadata,
    "ModelMetadata": _model_metadata,
    "ModelInfer": _model_infer,
    "ModelConfig": _model_config,
    "RepositoryIndex": _repository_index,
    "RepositoryModelLoad": _load,
    "RepositoryModelUnload": _unload,
}
