"""All calls of a bridge by a client made from the Blueprint Manager's own definition: prints a line `CALL STATUS` each.

Arguments: the folder of `blueprint_manager_bridge.proto`.
"""
import os
import sys
import time

import grpc

sys.path.insert(0, sys.argv[1])
messages, services = grpc.protos_and_services("blueprint_manager_bridge.proto")
empty_pb2 = __import__("google.protobuf.empty_pb2", fromlist=["Empty"])

own = int(os.environ["SERVICE_ID"])
owner = messages.ServiceOwner(key_type=messages.ECDSA, key_bytes=bytes.fromhex(os.environ["EXAMPLE_OWNER"]))
# By itself it sends the path as its authority, which is none as HTTP has them.
authority = [("grpc.default_authority", "localhost")]
channel = grpc.insecure_channel("unix:" + os.environ["BRIDGE_SOCKET_PATH"], options=authority)
bridge = services.BlueprintManagerBridgeStub(channel)


def register(service, url):
    return messages.RegisterBlueprintServiceProxyRequest(
        service_id=service, api_key_prefix="table_", upstream_url=url, owners=[owner]
    )


def call(name, method, request):
    try:
        answer = method(request, timeout=30)
        print(name, "OK", flush=True)
        return answer
    except grpc.RpcError as error:
        print(name, error.code().name, flush=True)
        return None


add = lambda who: messages.AddOwnerToServiceRequest(service_id=own, owner_to_add=who)
remove = lambda who: messages.RemoveOwnerFromServiceRequest(service_id=own, owner_to_remove=who)
tls = lambda profile: messages.UpdateBlueprintServiceTlsProfileRequest(service_id=own, tls_profile=profile)
end = messages.UnregisterBlueprintServiceProxyRequest(service_id=own)
unknown = messages.ServiceOwner(key_type=messages.UNKNOWN, key_bytes=owner.key_bytes)

call("ping", bridge.Ping, empty_pb2.Empty())
port = call("port", bridge.RequestPort, messages.PortRequest(preferred_port=0)).port
again = call("port-again", bridge.RequestPort, messages.PortRequest(preferred_port=port)).port
print("port-kept", "OK" if again == port and port > 1024 else f"{port} {again}", flush=True)
call("port-too-large", bridge.RequestPort, messages.PortRequest(preferred_port=70000))
call("add-before", bridge.AddOwnerToService, add(owner))
call("remove-before", bridge.RemoveOwnerFromService, remove(owner))
call("tls-before", bridge.UpdateBlueprintServiceTlsProfile, tls(None))
call("unregister-before", bridge.UnregisterBlueprintServiceProxy, end)
call("register-other", bridge.RegisterBlueprintServiceProxy, register(own + 1, f"http://localhost:{port}"))
call("register-elsewhere", bridge.RegisterBlueprintServiceProxy, register(own, "http://10.88.0.1:80"))
call("register-no-url", bridge.RegisterBlueprintServiceProxy, register(own, "nothing"))
call("register", bridge.RegisterBlueprintServiceProxy, register(own, f"http://localhost:{port}"))
call("register-again", bridge.RegisterBlueprintServiceProxy, register(own, f"http://localhost:{port}"))
call("add", bridge.AddOwnerToService, add(owner))
call("add-again", bridge.AddOwnerToService, add(owner))
call("add-unknown", bridge.AddOwnerToService, add(unknown))
call("add-nobody", bridge.AddOwnerToService, add(None))
call("remove", bridge.RemoveOwnerFromService, remove(owner))
call("remove-again", bridge.RemoveOwnerFromService, remove(owner))
call("remove-nobody", bridge.RemoveOwnerFromService, remove(None))
call("tls-none", bridge.UpdateBlueprintServiceTlsProfile, tls(None))
call("tls-empty", bridge.UpdateBlueprintServiceTlsProfile, tls(messages.TlsProfileConfig(tls_enabled=True)))
call("unregister", bridge.UnregisterBlueprintServiceProxy, end)
call("unregister-again", bridge.UnregisterBlueprintServiceProxy, end)
call("no-such", channel.unary_unary("/blueprint_manager_bridge.BlueprintManagerBridge/Nothing"), b"")
print("done OK", flush=True)
time.sleep(600)
