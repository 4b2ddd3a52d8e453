"""Cloud Map: names of private namespaces, and the addresses that they stand for.

moto keeps namespaces, services and instances, but nobody can resolve a name. Here a file in the
form of ``/etc/hosts`` always has the names of all instances, which is what a resolver in the VPC
would answer. Whoever resolves a name reads it at that moment.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from moto.servicediscovery.exceptions import InstanceNotFound, ServiceNotFound
from moto.servicediscovery.models import ServiceDiscoveryBackend, servicediscovery_backends

from local.cloud.patching import replaced

_ADDRESS = "AWS_INSTANCE_IPV4"


class PrivateNames:
    """The names of one cloud. Use it as ``with names.connected():``.

    Parameters
    ----------
    hosts_file
        Where they are written; made when the names are connected.
    """

    def __init__(self, hosts_file: Path) -> None:
        self._hosts_file = hosts_file
        self._lock = threading.RLock()

    @contextmanager
    def connected(self) -> Iterator[None]:
        """Keep the file up to date within the context."""
        self._write()
        with ExitStack() as patches:
            for name, original in (
                ("register_instance", _one_of_an_id(ServiceDiscoveryBackend.register_instance)),
                ("deregister_instance", ServiceDiscoveryBackend.deregister_instance),
                ("delete_service", ServiceDiscoveryBackend.delete_service),
            ):
                changed = self._then_written(original)
                patches.enter_context(replaced(ServiceDiscoveryBackend, name, changed))
            yield

    def _then_written(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def change(backend: ServiceDiscoveryBackend, *args: Any, **kwargs: Any) -> Any:
            # One after the other: moto changes what it has in several steps.
            with self._lock:
                answer = original(backend, *args, **kwargs)
                self._write()
            return answer

        return change

    def _write(self) -> None:
        with self._lock:
            lines = [f"{address}\t{name}\n" for name, address in _records()]
            # Whoever reads it finds all of it.
            partial = self._hosts_file.with_suffix(".partial")
            partial.write_text("".join(lines), encoding="utf-8")
            partial.replace(self._hosts_file)


def _one_of_an_id(register: Callable[..., str]) -> Callable[..., str]:
    """Let an instance take the place of the one with its ID, next to which moto puts it."""

    def register_instance(
        backend: ServiceDiscoveryBackend,
        service_id: str,
        instance_id: str,
        *others: Any,
        **more: Any,
    ) -> str:
        service = backend.get_service(service_id)
        service.instances[:] = [
            each for each in service.instances if each.instance_id != instance_id
        ]
        return register(backend, service_id, instance_id, *others, **more)

    return register_instance


def _records() -> Iterator[tuple[str, str]]:
    for _, _, each in servicediscovery_backends.iter_backends():
        backend: Any = each
        for service in list(backend.services.values()):
            namespace = backend.namespaces.get(service.namespace_id)
            for instance in list(service.instances):
                if namespace is not None and _ADDRESS in instance.attributes:
                    yield f"{service.name}.{namespace.name}", instance.attributes[_ADDRESS]


def register(registry_arn: str, instance_id: str, attributes: dict[str, str]) -> None:
    """Register an instance with the service of an ARN, as ECS does for a task."""
    backend, service_id = _service(registry_arn)
    backend.register_instance(service_id, instance_id, instance_id, attributes)


def deregister(registry_arn: str, instance_id: str) -> None:
    """Take an instance away, unless it or its service is gone already."""
    backend, service_id = _service(registry_arn)
    try:
        backend.deregister_instance(service_id, instance_id)
    except (InstanceNotFound, ServiceNotFound):
        return


def _service(registry_arn: str) -> tuple[ServiceDiscoveryBackend, str]:
    _, _, _, region, account, resource = registry_arn.split(":")
    return servicediscovery_backends[account][region], resource.rpartition("/")[2]
