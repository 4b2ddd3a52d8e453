"""Which Consul a local run uses: a real one if there is one, else the embedded one."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, Protocol

from local.consul.binary import running_consul
from local.consul.remote import remote_consul
from local.consul.server import EmbeddedConsul


class ConsulServer(Protocol):
    """A Consul server, whatever it is."""

    @property
    def address(self) -> str:
        """Its URL."""

    @property
    def version(self) -> str:
        """Its version, such as ``1.10.1``."""

    @property
    def kind(self) -> Literal["embedded", "binary", "remote"]:
        """What it is: in this process, started from an executable, or somebody else's."""

    @property
    def management_token(self) -> str | None:
        """A management token; none where the ACL system is new and waits to be bootstrapped."""


@contextmanager
def consul_for_local_run(*, workdir: Path) -> Iterator[ConsulServer]:
    """Provide a Consul server for a run, and end it afterwards if it was started here.

    The first that there is of: the server at ``CONSUL_HTTP_ADDR`` (with a management token in
    ``CONSUL_HTTP_TOKEN``); a ``consul`` on ``PATH``, which is started with its data below
    ``workdir``; the embedded Consul.

    Raises
    ------
    RemoteConsulError
        The environment names a server that cannot be used.
    ConsulBinaryError
        The executable did not become a server.
    """
    remote = remote_consul()
    executable = shutil.which("consul")
    if remote:
        yield remote
    elif executable:
        with running_consul(Path(executable), workdir=workdir) as server:
            yield server
    else:
        with EmbeddedConsul() as embedded:
            yield embedded
