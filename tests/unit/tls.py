"""Handshakes between a server and a client of Python's own TLS, in memory."""

from __future__ import annotations

import ssl
from pathlib import Path


def shake_hands(server: ssl.SSLContext, client: ssl.SSLContext, *, host: str) -> None:
    """Let a client connect to a server that it calls by a name.

    Raises:
        ssl.SSLError: as soon as one side does not accept the other.

    """
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [
        client.wrap_bio(to_client, to_server, server_hostname=host),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    while sides:
        for side in list(sides):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            sides.remove(side)


class Party:
    """Somebody with a certificate, who trusts a CA.

    Args:
        folder: where Python's TLS finds what it takes from files only.
        certificate: PEM; None for somebody without one.
        private_key: PEM.
        ca: PEM of whom to trust.

    """

    def __init__(
        self, folder: Path, *, ca: str, certificate: str | None = None, private_key: str = ""
    ) -> None:
        self._ca = ca
        self._files: tuple[Path, Path] | None = None
        if certificate is not None:
            self._files = folder / "certificate.pem", folder / "key.pem"
            self._files[0].write_text(certificate)
            self._files[1].write_text(private_key)

    def as_server(self, *, verifies_clients: bool = False) -> ssl.SSLContext:
        """Return how it serves."""
        context = self._context(ssl.PROTOCOL_TLS_SERVER)
        context.verify_mode = ssl.CERT_REQUIRED if verifies_clients else ssl.CERT_NONE
        return context

    def as_client(self) -> ssl.SSLContext:
        """Return how it connects to others, whose names it verifies."""
        return self._context(ssl.PROTOCOL_TLS_CLIENT)

    def _context(self, protocol: ssl._SSLMethod) -> ssl.SSLContext:
        context = ssl.SSLContext(protocol)
        context.load_verify_locations(cadata=self._ca)
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        if self._files is not None:
            context.load_cert_chain(*self._files)
        return context
