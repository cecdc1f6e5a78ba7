#!/usr/bin/env python3
"""A plugin of a blueprint hub: a cloud of files, as small as the contract lets it be.

It keeps a file for each machine in a folder, and that is all that its machines are. To make a plugin of it, put the calls of
your cloud in the places of `Folder`. docs/plugins.md says what the hub wants of it. It needs:

    python3 -m venv venv && venv/bin/pip install grpcio grpcio-tools
    BLUEPRINT_PLUGIN_SOCKET=/run/blueprint-plugin/provider.sock PLUGIN_FOLDER=/var/lib/cloud-of-files venv/bin/python plugin.py
"""

import base64
import json
import os
import pathlib
import sys
import threading
import time
from concurrent import futures

import grpc

PROTO = os.environ.get("PLUGIN_PROTO", str(pathlib.Path(__file__).resolve().parents[4] / "proto"))
sys.path.insert(0, PROTO)
messages, services = grpc.protos_and_services("blueprint/plugin/v1/provider.proto")

Failure, Machine = messages.Failure, messages.Machine
# Processors, MiB of memory, GB of disk, and millionths of a dollar for an hour.
PLANS = {"tiny": (1, 1024, 10, 5_000), "big": (4, 8192, 100, 40_000)}
REGIONS = ("here", "there")


class Refused(Exception):
    """Something that is not done, and why: it becomes a `Failure`."""

    def __init__(self, kind, message, **more):
        super().__init__(message)
        self.failure = Failure(message=message, **{"class": kind}, **more)


class Folder:
    """The cloud. Each method may raise `Refused`."""

    def __init__(self, path):
        self.path = pathlib.Path(path)
        self.path.mkdir(parents=True, exist_ok=True)
        self.lock = threading.Lock()

    def _file(self, name):
        # Names come from outside: none leads out of the folder.
        if not name.replace("-", "").isalnum():
            raise Refused(Failure.REJECT, "there is no such machine")
        return self.path / f"{name}.json"

    def _write(self, machine):
        file = self._file(machine["id"])
        part = file.with_suffix(".part")
        part.touch(mode=0o600)
        part.write_text(json.dumps(machine))
        part.replace(file)

    def _read(self, name):
        file = self._file(name)
        if not file.exists():
            raise Refused(Failure.REJECT, f"there is no machine {name}")
        return json.loads(file.read_text())

    def list(self):
        return [json.loads(file.read_text()) for file in sorted(self.path.glob("*.json"))]

    def create(self, order):
        if order.plan not in PLANS or order.region not in REGIONS or order.spot or order.arch != "x86_64":
            raise Refused(Failure.NOT_SOLD, f"{order.plan} in {order.region}")
        quota = int(os.environ.get("PLUGIN_QUOTA", "50"))
        with self.lock:
            # One machine for one order, whatever answers are lost: the key is its name.
            name = f"{order.region}-{order.key}-{order.tags.hub[:8]}"
            if self._file(name).exists():
                return self._read(name)
            if len(self.list()) >= quota:
                raise Refused(Failure.QUOTA, "machines", limit=quota)
            machine = {
                "id": name,
                "key": order.key,
                "hub": order.tags.hub,
                "deployment": order.tags.deployment,
                "attempt": order.tags.attempt,
                "state": "RUNNING",
                "created": int(time.time() * 1000),
                # For the machine alone; a real cloud takes it in the call that makes the machine.
                "user_data": base64.b64encode(order.user_data).decode(),
            }
            self._write(machine)
            return machine

    def delete(self, name):
        with self.lock:
            try:
                self._file(name).unlink(missing_ok=True)
            except Refused:
                pass

    def switch(self, name, state):
        with self.lock:
            machine = self._read(name)
            machine["state"] = state
            self._write(machine)


def told(machine):
    tags = messages.Tags(hub=machine["hub"], deployment=machine["deployment"], attempt=machine["attempt"])
    return Machine(
        key=machine["key"],
        provider_id=machine["id"],
        tags=tags,
        state=Machine.State.Value(machine["state"]),
        created_at_ms=machine["created"],
    )


class Provider(services.ProviderServicer):
    def __init__(self, cloud):
        self.cloud = cloud

    def Describe(self, request, context):
        return messages.DescribeResponse(protocol=1, name="cloud of files", version="1")

    def Offers(self, request, context):
        offers = [
            messages.Offer(
                plan=plan,
                region=region,
                arch="x86_64",
                vcpus=vcpus,
                memory_mib=memory,
                disk_gb=disk,
                hourly_micros=price,
            )
            for plan, (vcpus, memory, disk, price) in PLANS.items()
            for region in REGIONS
        ]
        return messages.OffersResponse(offers=offers)

    def List(self, request, context):
        machines = [told(machine) for machine in self.cloud.list()]
        return messages.ListResponse(machines=machines, cloud_time_ms=int(time.time() * 1000))

    def Create(self, request, context):
        try:
            return messages.CreateResponse(machine=told(self.cloud.create(request)))
        except Refused as refused:
            return messages.CreateResponse(failure=refused.failure)

    def Delete(self, request, context):
        return self._done(lambda: self.cloud.delete(request.provider_id))

    def Boot(self, request, context):
        return self._done(lambda: self.cloud.switch(request.provider_id, "RUNNING"))

    def Stop(self, request, context):
        return self._done(lambda: self.cloud.switch(request.provider_id, "STOPPED"))

    def _done(self, work):
        try:
            work()
        except Refused as refused:
            return messages.DoneResponse(failure=refused.failure)
        return messages.DoneResponse()


def end_with_the_hub():
    """The hub keeps standard input open for as long as it lives."""
    while os.read(0, 4096):
        pass
    os._exit(0)


def main():
    socket = os.environ["BLUEPRINT_PLUGIN_SOCKET"]
    # Nobody else may ask for machines.
    os.umask(0o077)
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=8))
    cloud = Folder(os.environ.get("PLUGIN_FOLDER", str(pathlib.Path(socket).parent / "machines")))
    services.add_ProviderServicer_to_server(Provider(cloud), server)
    server.add_insecure_port(f"unix:{socket}")
    server.start()
    if os.environ.get("BLUEPRINT_PLUGIN_KEPT") == "1":
        threading.Thread(target=end_with_the_hub, daemon=True).start()
    print("the plugin serves", socket, flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    main()
