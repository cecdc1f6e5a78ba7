"""A client of `qos.QoSMetrics` that is made from its definition alone: prints all four answers as one JSON document.

Arguments: the folder of `sdk.proto`, HOST:PORT, blueprint, service.
"""
import json
import sys

import grpc

sys.path.insert(0, sys.argv[1])
messages, services = grpc.protos_and_services("sdk.proto")
place, blueprint, service = sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
channel = grpc.insecure_channel(place)
stub = services.QoSMetricsStub(channel)


def whose(number=service):
    return {"blueprint_id": blueprint, "service_id": number}


def plain(message):
    """The fields of a message by name; of those that may be absent, the ones that are there."""
    fields = {}
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if field.has_presence and not message.HasField(field.name):
            continue
        if field.message_type is None:
            fields[field.name] = value
        elif field.message_type.GetOptions().map_entry:
            fields[field.name] = dict(value)
        else:
            fields[field.name] = [plain(one) for one in value]
    return fields


def code(method, request):
    try:
        method(request, timeout=10)
        return "OK"
    except grpc.RpcError as error:
        return error.code().name


status = stub.GetStatus(messages.GetStatusRequest(**whose()), timeout=10)
usage = stub.GetResourceUsage(messages.GetResourceUsageRequest(**whose()), timeout=10)
metrics = stub.GetBlueprintMetrics(messages.GetBlueprintMetricsRequest(**whose()), timeout=10)
span = {"start_time": status.timestamp - 3600, "end_time": status.timestamp + 60}


def past(kind, most, **more):
    ask = messages.GetHistoricalMetricsRequest(max_data_points=most, metrics_type=kind, **{**whose(), **span, **more})
    return stub.GetHistoricalMetrics(ask, timeout=10)


# The other spelling of the service's name, which some of its clients have.
respelled = channel.unary_unary(
    "/qos.QosMetrics/GetStatus",
    request_serializer=messages.GetStatusRequest.SerializeToString,
    response_deserializer=messages.GetStatusResponse.FromString,
)
backwards = messages.GetHistoricalMetricsRequest(start_time=span["start_time"], end_time=1, **whose())
answers = {
    "status": plain(status),
    "usage": plain(usage),
    "metrics": plain(metrics),
    "system": plain(past(messages.SYSTEM, 0)),
    "blueprint": plain(past(messages.BLUEPRINT, 0)),
    "two": plain(past(messages.BLUEPRINT, 2)),
    "codes": {
        "respelled": code(respelled, messages.GetStatusRequest(**whose())),
        "none": code(stub.GetStatus, messages.GetStatusRequest(**whose(service + 1))),
        "backwards": code(stub.GetHistoricalMetrics, backwards),
    },
}
print(json.dumps(answers))
