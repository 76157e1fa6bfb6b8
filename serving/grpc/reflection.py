"""Reflection, of which newer clients (grpcurl, Postman, grpcui) ask for v1 first and some for v1
only. grpcio-reflection has v1alpha; v1 is the same, message for message, under another name."""

from __future__ import annotations

from typing import Any

import grpc
from google.protobuf import descriptor_pool
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_reflection.v1alpha import reflection, reflection_pb2

_ALPHA = reflection_pb2.DESCRIPTOR.package  # grpc.reflection.v1alpha
_V1 = _ALPHA.removesuffix("alpha")
_FILE = "grpc/reflection/v1/reflection.proto"
V1_SERVICE_NAME = f"{_V1}.ServerReflection"
SERVICE_NAMES = (reflection.SERVICE_NAME, V1_SERVICE_NAME)


def add_reflection(services: tuple[str, ...], server: Any) -> None:
    """Both versions, over these services and themselves."""
    _describe_v1()
    servicer = reflection.aio.ReflectionServicer((*services, *SERVICE_NAMES))  # type: ignore[attr-defined]  # not in stubs
    handler = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    for name in SERVICE_NAMES:
        server.add_registered_method_handlers(name, {"ServerReflectionInfo": handler})


def _describe_v1() -> None:
    """For clients that ask what v1 itself is: v1alpha's description, with v1's names."""
    pool = descriptor_pool.Default()
    try:
        pool.FindFileByName(_FILE)
    except KeyError:
        described = FileDescriptorProto.FromString(reflection_pb2.DESCRIPTOR.serialized_pb)
        described.name, described.package = _FILE, _V1
        fields = [field for message in described.message_type for field in message.field]
        for field in fields:
            if field.type_name:  # of a message; numbers and texts have none
                field.type_name = field.type_name.replace(_ALPHA, _V1)
        for service in described.service:
            for method in service.method:
                method.input_type = method.input_type.replace(_ALPHA, _V1)
                method.output_type = method.output_type.replace(_ALPHA, _V1)
        pool.AddSerializedFile(described.SerializeToString())
