"""Both versions of reflection, asked as clients do: by what each sends on the wire."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha import reflection_pb2 as pb

from serving.core.dataplane import DataPlane
from tests.serving.conftest import context_of, grpc_serving

VERSIONS = ("v1", "v1alpha")
SERVICES = {
    "inference.GRPCInferenceService",
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
}
Request = pb.ServerReflectionRequest


async def ask(address: str, version: str, *requests: pb.ServerReflectionRequest) -> list[Any]:
    async with grpc.aio.insecure_channel(address) as channel:
        call = channel.stream_stream(
            f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
            request_serializer=Request.SerializeToString,
            response_deserializer=pb.ServerReflectionResponse.FromString,
        )
        return [reply async for reply in call(iter(requests))]


@pytest.mark.parametrize("version", VERSIONS)
async def test_all_services_are_listed_and_described(classifier: DataPlane, version: str) -> None:
    async with grpc_serving(context_of(classifier)) as address:
        (listed,) = await ask(address, version, Request(list_services=""))
        names = {service.name for service in listed.list_services_response.service}
        assert names == SERVICES
        pool = DescriptorPool()
        for name in sorted(names):
            (reply,) = await ask(address, version, Request(file_containing_symbol=name))
            files = reply.file_descriptor_response.file_descriptor_proto
            assert files, reply
            for file in files:
                pool.Add(FileDescriptorProto.FromString(file))
            service = pool.FindServiceByName(name)
            assert service.methods
            for method in service.methods:
                GetMessageClass(method.input_type)()
                GetMessageClass(method.output_type)()
                if name.startswith("grpc.reflection"):
                    assert method.input_type.full_name.startswith(name.rpartition(".")[0] + ".")


@pytest.mark.parametrize("version", VERSIONS)
async def test_what_is_not_there(classifier: DataPlane, version: str) -> None:
    requests = [
        Request(file_containing_symbol="inference.None"),
        Request(file_by_filename="none.proto"),
        Request(all_extension_numbers_of_type="inference.None"),
        Request(),
    ]
    async with grpc_serving(context_of(classifier)) as address:
        replies = await ask(address, version, *requests)
    codes = [reply.error_response.error_code for reply in replies]
    assert codes == [grpc.StatusCode.NOT_FOUND.value[0]] * 3 + [
        grpc.StatusCode.INVALID_ARGUMENT.value[0]
    ]


@pytest.mark.parametrize("version", VERSIONS)
async def test_what_is_no_message(classifier: DataPlane, version: str) -> None:
    async with (
        grpc_serving(context_of(classifier)) as address,
        grpc.aio.insecure_channel(address) as channel,
    ):
        call = channel.stream_stream(
            f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo", None, None
        )
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            [reply async for reply in call(iter([b"\xff\xff"]))]
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
