"""Learns the contract from the server at the address that is the first argument, and calls it."""
import json, sys, grpc
from google.protobuf import descriptor_pool, json_format, message_factory
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

channel = grpc.insecure_channel(sys.argv[1])
database = ProtoReflectionDescriptorDatabase(channel)
pool = descriptor_pool.DescriptorPool(database)


def method(service, name):
    """A method, to be called with the fields of its request in their JSON form."""
    found = pool.FindServiceByName(service).FindMethodByName(name)
    request = message_factory.GetMessageClass(found.input_type)
    answer = message_factory.GetMessageClass(found.output_type)
    make = channel.unary_stream if found.server_streaming else channel.unary_unary
    call = make(f"/{service}/{name}", request_serializer=request.SerializeToString, response_deserializer=answer.FromString)
    return lambda **fields: call(json_format.ParseDict(fields, request()), timeout=20)


def plain(message):
    """A message in its JSON form."""
    return json_format.MessageToDict(message)
