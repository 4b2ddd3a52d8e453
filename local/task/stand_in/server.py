"""``consul agent`` as a server: the embedded Consul, with the files that its configuration names.

It takes part in no gossip and no Raft, so it is a cluster of its own, and keeps nothing: each start
is a new, empty Consul. Its HTTP API is served in the clear and with TLS, as the ports say.
"""

from __future__ import annotations

import signal
import ssl
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from local.consul.server import EmbeddedConsul, Https
from local.task.stand_in.config import tls_of

VERSION = "1.21.5"
_DEFAULT_HTTP_PORT = 8500
_WITHOUT_LEAVING = 1
_LOOKS_EVERY_SECONDS = 0.5


def run_server(config: Mapping[str, Any]) -> int:
    """Run until SIGTERM or SIGINT, and return the exit status.

    Raises
    ------
    OSError
        A file is not there or not what it should be, or a port is taken.
    """
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    Path(config["data_dir"]).mkdir(parents=True, exist_ok=True)
    addresses, ports = config.get("addresses", {}), config.get("ports", {})
    default = config.get("client_addr", "127.0.0.1")
    https = ports.get("https", -1)
    acl = config.get("acl", {})
    context = _tls(config) if https > 0 else None
    consul = EmbeddedConsul(
        host=addresses.get("http", default),
        port=ports.get("http", _DEFAULT_HTTP_PORT),
        datacenter=config.get("datacenter", "dc1"),
        acl=acl.get("default_policy", "allow") if acl.get("enabled") else "disabled",
        initial_management=acl.get("tokens", {}).get("initial_management"),
        version=VERSION,
        flavour="current",
        https=Https(addresses.get("https", default), https, context) if context else None,
    )
    if context is not None:
        signal.signal(signal.SIGHUP, lambda *_: _read_again(context, config))
    with consul:
        print("==> Consul agent running! (a stand-in server)", flush=True)
        # Not for ever at once: Python may miss a signal that comes just as it begins to wait (the
        # handler then runs when it waits no more).
        while not ended.wait(_LOOKS_EVERY_SECONDS):
            pass
    return _WITHOUT_LEAVING


def _tls(config: Mapping[str, Any]) -> ssl.SSLContext:
    given = tls_of(config, "https")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if given.get("ca_file"):
        context.load_verify_locations(given["ca_file"])
    context.load_cert_chain(given["cert_file"], given["key_file"])
    context.verify_mode = ssl.CERT_REQUIRED if given.get("verify_incoming") else ssl.CERT_NONE
    return context


def _read_again(context: ssl.SSLContext, config: Mapping[str, Any]) -> None:
    """Let connections that are made from now on have the certificate that the files have by now."""
    try:
        renewed = _tls(config)
    except OSError as error:
        # A real one goes on with what it has, too.
        print(f"==> {error}", flush=True)
        return

    def take_renewed(connection: ssl.SSLSocket | ssl.SSLObject, *_: Any) -> None:
        connection.context = renewed

    # At once. To load it into the context would be a moment with a certificate and no key.
    context.sni_callback = take_renewed
    print("==> Reloaded", flush=True)
