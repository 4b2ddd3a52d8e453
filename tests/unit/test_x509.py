"""Certificates are what RFC 5280 and TLS take; others read from them what we have put in."""

from __future__ import annotations

import base64
import ipaddress
import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509 as read
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509 import verification
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, NameOID

from handlers.core import x509
from handlers.core.x509 import Certificate, UnreadableError
from tests.unit.tls import Party, shake_hands

NOW = datetime.now(UTC).replace(microsecond=0)
BEGINNING = NOW - timedelta(minutes=5)
END = NOW + timedelta(days=90)
EVERY_SERVER = "server.dc1.consul"
NAMES = [EVERY_SERVER, "consul-server-1.server.dc1.consul", "server.consul.internal", "localhost"]
NAMES += ["127.0.0.1"]


class Key:
    """A key as KMS has it."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.public = self._key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        self.pkcs8 = pkcs8(self._key)
        self.pem = x509.private_key_pem(self.pkcs8, public_key=self.public)

    def signed(self, unsigned: x509.Unsigned) -> str:
        return unsigned.signed(self._key.sign(unsigned.to_be_signed, ec.ECDSA(hashes.SHA256())))


def pkcs8(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.DER,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


CA_KEY, SERVER_KEY = Key(), Key()


def ca(
    *,
    key: Key = CA_KEY,
    name: str = "Consul CA dc1",
    beginning: datetime = BEGINNING,
    end: datetime = NOW + timedelta(days=3650),
) -> str:
    return key.signed(
        x509.unsigned_ca(
            name=x509.ca_name(name), public_key=key.public, not_before=beginning, not_after=end
        )
    )


CA = ca()


def server(
    *, of: str = CA, signed_by: Key = CA_KEY, names: list[str] = NAMES, end: datetime = END
) -> str:
    return signed_by.signed(
        x509.unsigned_server(
            names=names,
            public_key=SERVER_KEY.public,
            ca=Certificate.read(of),
            not_before=BEGINNING,
            not_after=end,
        )
    )


SERVER = server()


def extensions(pem: str) -> dict[read.ObjectIdentifier, tuple[bool, read.ExtensionType]]:
    found = read.load_pem_x509_certificate(pem.encode()).extensions
    return {one.oid: (one.critical, one.value) for one in found}


def common_name(name: read.Name) -> str:
    (attribute,) = name
    assert attribute.oid == NameOID.COMMON_NAME
    return str(attribute.value)


def key_id(key: Key) -> bytes:
    """Identify a key by the first method of RFC 7093."""
    digest = hashes.Hash(hashes.SHA256())
    digest.update(point(key))
    return digest.finalize()[:20]


# --- what they are -------------------------------------------------------------------------------


def test_a_ca_is_one_that_signs_certificates_of_others_and_no_cas() -> None:
    found = read.load_pem_x509_certificate(CA.encode())

    assert found.version == read.Version.v3
    assert common_name(found.subject) == common_name(found.issuer) == "Consul CA dc1"
    assert (found.not_valid_before_utc, found.not_valid_after_utc) == (
        BEGINNING,
        NOW + timedelta(days=3650),
    )
    assert isinstance(found.signature_hash_algorithm, hashes.SHA256)
    assert extensions(CA) == {
        ExtensionOID.BASIC_CONSTRAINTS: (True, read.BasicConstraints(ca=True, path_length=0)),
        ExtensionOID.KEY_USAGE: (True, usage(key_cert_sign=True, crl_sign=True)),
        ExtensionOID.SUBJECT_KEY_IDENTIFIER: (False, read.SubjectKeyIdentifier(key_id(CA_KEY))),
    }
    found.verify_directly_issued_by(found)


def usage(**true: bool) -> read.KeyUsage:
    names = (
        *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment"),
        *("key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
    )
    return read.KeyUsage(**{name: true.get(name, False) for name in names})


def test_a_servers_certificate_is_for_its_names_and_both_sides_of_tls() -> None:
    found = read.load_pem_x509_certificate(SERVER.encode())

    assert found.version == read.Version.v3
    assert (common_name(found.subject), common_name(found.issuer)) == (
        EVERY_SERVER,
        "Consul CA dc1",
    )
    assert (found.not_valid_before_utc, found.not_valid_after_utc) == (BEGINNING, END)
    names = [*map(read.DNSName, NAMES[:-1]), read.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    assert extensions(SERVER) == {
        ExtensionOID.BASIC_CONSTRAINTS: (True, read.BasicConstraints(ca=False, path_length=None)),
        ExtensionOID.KEY_USAGE: (True, usage(digital_signature=True)),
        ExtensionOID.EXTENDED_KEY_USAGE: (
            False,
            read.ExtendedKeyUsage(
                [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
            ),
        ),
        ExtensionOID.SUBJECT_KEY_IDENTIFIER: (
            False,
            read.SubjectKeyIdentifier(key_id(SERVER_KEY)),
        ),
        ExtensionOID.AUTHORITY_KEY_IDENTIFIER: (
            False,
            read.AuthorityKeyIdentifier(key_id(CA_KEY), None, None),
        ),
        ExtensionOID.SUBJECT_ALTERNATIVE_NAME: (False, read.SubjectAlternativeName(names)),
    }
    found.verify_directly_issued_by(read.load_pem_x509_certificate(CA.encode()))


def test_serial_numbers_are_random_and_positive_and_not_too_long() -> None:
    serials = {read.load_pem_x509_certificate(server().encode()).serial_number for _ in range(20)}

    assert len(serials) == 20
    assert all(0 < serial <= 2**128 for serial in serials)
    assert max(serials).bit_length() > 100


@pytest.mark.parametrize("year", [2049, 2050, 2061])
def test_times_are_written_as_their_century_demands(year: int) -> None:
    end = datetime(year, 12, 31, 23, 59, 59, tzinfo=UTC)
    pem = ca(end=end)

    assert read.load_pem_x509_certificate(pem.encode()).not_valid_after_utc == end
    assert Certificate.read(pem).not_after == end
    der = base64.b64decode("".join(pem.splitlines()[1:-1]))
    assert (b"\x17\x0d491231235959Z" in der) == (year == 2049)


def test_a_common_name_is_cut_off_where_it_has_to_end_and_other_names_are_not() -> None:
    long = f"server.{'d' * 60}.consul"
    found = server(names=[long])

    assert common_name(read.load_pem_x509_certificate(found.encode()).subject) == long[:64]
    assert Certificate.read(found).names == (long,)


def test_the_chain_is_one_to_a_verifier_of_web_certificates() -> None:
    store = verification.Store([read.load_pem_x509_certificate(CA.encode())])
    anytime = verification.PolicyBuilder().store(store)
    builder = anytime.time(NOW)
    leaf = read.load_pem_x509_certificate(SERVER.encode())

    chain = builder.build_server_verifier(read.DNSName(EVERY_SERVER)).verify(leaf, [])
    assert len(chain) == 2
    assert builder.build_client_verifier().verify(leaf, []).subjects is not None
    with pytest.raises(verification.VerificationError):
        builder.build_server_verifier(read.DNSName("server.dc2.consul")).verify(leaf, [])
    with pytest.raises(verification.VerificationError):
        anytime.time(END + timedelta(seconds=1)).build_client_verifier().verify(leaf, [])


# --- reading them --------------------------------------------------------------------------------


def test_what_is_read_is_what_was_put_in() -> None:
    authority, found = Certificate.read(CA), Certificate.read(SERVER)

    assert authority == Certificate(
        subject=x509.ca_name("Consul CA dc1"),
        issuer=x509.ca_name("Consul CA dc1"),
        public_key=CA_KEY.public,
        not_before=BEGINNING,
        not_after=NOW + timedelta(days=3650),
        is_ca=True,
        key_id=key_id(CA_KEY),
        issuer_key_id=None,
        names=(),
    )
    assert found == Certificate(
        subject=x509.ca_name(EVERY_SERVER),
        issuer=x509.ca_name("Consul CA dc1"),
        public_key=SERVER_KEY.public,
        not_before=BEGINNING,
        not_after=END,
        is_ca=False,
        key_id=key_id(SERVER_KEY),
        issuer_key_id=key_id(CA_KEY),
        names=tuple(NAMES),
    )


def test_a_certificate_that_another_tool_has_made_is_read_too() -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = read.Name([read.NameAttribute(NameOID.COMMON_NAME, "theirs")])
    names = [read.RFC822Name("a@example.com"), read.IPAddress(ipaddress.ip_address("::1"))]
    made = (
        read.CertificateBuilder(name, name, key.public_key(), 7, BEGINNING, END)
        .add_extension(read.SubjectAlternativeName(names), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = made.public_bytes(serialization.Encoding.PEM).decode()

    found = Certificate.read(f"\n{pem}\n".replace("\n", "\r\n"))
    assert (found.is_ca, found.key_id, found.issuer_key_id) == (False, None, None)
    assert found.names == ("(rfc822Name)", "::1")
    private = base64.b64encode(pkcs8(key)).decode()
    assert not found.has_private_key(
        f"-----BEGIN PRIVATE KEY-----\n{private}\n-----END PRIVATE KEY-----"
    )


def test_it_is_signed_by_the_key_and_under_the_name_that_it_says() -> None:
    found = Certificate.read(SERVER)

    assert found.is_signed_by(Certificate.read(CA))
    assert found.is_signed_by(Certificate.read(ca(end=NOW + timedelta(days=7300))))
    assert not found.is_signed_by(Certificate.read(ca(key=Key())))
    assert not found.is_signed_by(Certificate.read(ca(name="Consul CA dc2")))
    assert not Certificate.read(CA).is_signed_by(Certificate.read(SERVER))


def test_nothing_is_signed_by_one_that_does_not_identify_its_key() -> None:
    name = read.Name([read.NameAttribute(NameOID.COMMON_NAME, "theirs")])
    key = ec.generate_private_key(ec.SECP256R1())
    builder = read.CertificateBuilder(name, name, key.public_key(), 7, BEGINNING, END)
    pem = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()
    theirs = Certificate.read(pem)

    assert not theirs.is_signed_by(theirs)
    with pytest.raises(ValueError, match="has no subjectKeyIdentifier"):
        server(of=pem)


# --- private keys --------------------------------------------------------------------------------


def point(key: Key) -> bytes:
    return serialization.load_der_public_key(key.public).public_bytes(
        serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
    )


def without_public_half(der: bytes) -> bytes:
    """Leave out the last member, as RFC 5915 allows."""
    octets = der.index(b"\x04\x6d\x30\x6b\x02\x01\x01")
    key = der[octets + 4 : -len(b"\xa1\x44\x03\x42\x00" + point(SERVER_KEY))]
    return sequence(der[3:octets] + b"\x04" + bytes([len(key) + 2]) + sequence(key))


def with_public_half_beside_it(der: bytes) -> bytes:
    """Tell it in the second version of RFC 5958, too."""
    body = der[3:].replace(b"\x02\x01\x00", b"\x02\x01\x01", 1)
    return sequence(body + b"\x81\x42\x00" + point(SERVER_KEY))


def sequence(body: bytes) -> bytes:
    length = bytes([len(body)]) if len(body) < 0x80 else bytes([0x81, len(body)])
    return b"\x30" + length + body


@pytest.mark.parametrize("change", [bytes, without_public_half, with_public_half_beside_it])
def test_a_private_key_is_one_to_others_and_names_its_public_half(
    change: Callable[[bytes], bytes],
) -> None:
    der = change(SERVER_KEY.pkcs8)
    pem = x509.private_key_pem(der, public_key=SERVER_KEY.public)

    assert pem == SERVER_KEY.pem
    loaded = serialization.load_pem_private_key(pem.encode(), None)
    assert isinstance(loaded, ec.EllipticCurvePrivateKey)
    assert pkcs8(loaded) == SERVER_KEY.pkcs8
    assert Certificate.read(SERVER).has_private_key(pem_of(der, "PRIVATE KEY")) == (
        change is not without_public_half
    )
    assert Certificate.read(SERVER).has_private_key(pem)
    assert not Certificate.read(SERVER).has_private_key(CA_KEY.pem)


def test_a_private_key_is_shown_nowhere() -> None:
    with pytest.raises(UnreadableError) as caught:
        x509.private_key_pem(SERVER_KEY.pkcs8[:-1], public_key=SERVER_KEY.public)

    assert str(caught.value) == "not a private key on an elliptic curve"
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


# --- what is none --------------------------------------------------------------------------------

BODY = CA.splitlines()[1:-1]
DER = base64.b64decode("".join(BODY))


def pem_of(der: bytes, label: str = "CERTIFICATE") -> str:
    return f"-----BEGIN {label}-----\n{base64.b64encode(der).decode()}\n-----END {label}-----\n"


@pytest.mark.parametrize(
    "text",
    [
        *("", "{}", "hunter2", "-----BEGIN CERTIFICATE-----", pem_of(b""), pem_of(b"\x30\x00")),
        *(pem_of(DER[:-1]), pem_of(DER + b"\x05\x00"), pem_of(SERVER_KEY.pkcs8)),
        *(pem_of(DER, "PRIVATE KEY"), CA + CA, CA.replace("=", "")[:-30], pem_of(b"\x30" * 5000)),
        *(CA.replace("-----BEGIN", "hunter2 -----BEGIN"), CA[:28] + " " * 60_000),
        *(pem_of(DER.replace(b"Z\x17\x0d", b"X\x17\x0d")), pem_of(b"\x30\x80" * 2000)),
    ],
)  # fmt: skip
def test_what_is_no_certificate_is_not_taken_for_one(text: str) -> None:
    with pytest.raises(UnreadableError) as caught:
        Certificate.read(text)

    assert str(caught.value) == "not a certificate (PEM)"
    assert caught.value.__suppress_context__


def test_any_byte_may_be_wrong() -> None:
    # Whatever it breaks: it is a certificate, or it is said not to be.
    readable = 0
    for position in range(len(DER)):
        for flip in (0x01, 0xFF) if position < 40 else (0x80,):
            changed = bytearray(DER)
            changed[position] ^= flip
            try:
                Certificate.read(pem_of(bytes(changed)))
            except UnreadableError:
                continue
            readable += 1
    assert 0 < readable < len(DER)


@pytest.mark.parametrize(
    "text",
    ["", SERVER, SERVER_KEY.pem[:-40], pem_of(b"\x30\x00", "PRIVATE KEY"),
     pem_of(SERVER_KEY.public, "PRIVATE KEY"), SERVER_KEY.pem.replace("PRIVATE", "EC PRIVATE")],
    ids=["nothing", "certificate", "half", "empty", "public key", "another label"],
)  # fmt: skip
def test_what_is_no_private_key_is_not_taken_for_one(text: str) -> None:
    with pytest.raises(UnreadableError, match=r"^not a private key \(PEM, PKCS #8\)$"):
        Certificate.read(SERVER).has_private_key(text)


@pytest.mark.parametrize(
    "der",
    [b"", b"\x30\x00", b"hunter2", SERVER_KEY.public[:-1], DER],
    ids=["nothing", "empty", "text", "cut off", "certificate"],
)
def test_what_is_no_public_key_or_signature_is_refused(der: bytes) -> None:
    with pytest.raises(UnreadableError, match=r"^not a public key$"):
        x509.require_public_key(der)
    with pytest.raises(UnreadableError, match=r"^not a signature of ECDSA$"):
        x509.require_signature(der)


# --- in use --------------------------------------------------------------------------------------


def party(
    folder: Path, *, certificate: str | None = SERVER, trusts: str = CA, key: str = SERVER_KEY.pem
) -> Party:
    return Party(folder, ca=trusts, certificate=certificate, private_key=key)


@pytest.mark.parametrize("host", NAMES)
def test_a_server_is_verified_by_each_of_its_names(tmp_path: Path, host: str) -> None:
    client = party(tmp_path, certificate=None)

    shake_hands(party(tmp_path).as_server(), client.as_client(), host=host)


@pytest.mark.parametrize("host", ["server.dc2.consul", "dc1.consul", "127.0.0.2", "consul"])
def test_a_server_of_another_name_is_refused(tmp_path: Path, host: str) -> None:
    client = party(tmp_path, certificate=None)

    with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
        shake_hands(party(tmp_path).as_server(), client.as_client(), host=host)


def test_servers_verify_each_other(tmp_path: Path) -> None:
    both = party(tmp_path)

    shake_hands(both.as_server(verifies_clients=True), both.as_client(), host=EVERY_SERVER)


def test_somebody_without_a_certificate_or_of_another_ca_is_no_server(tmp_path: Path) -> None:
    one = party(tmp_path)
    nobody = party(tmp_path, certificate=None).as_client()
    nobody.maximum_version = ssl.TLSVersion.TLSv1_2  # later ones tell the client afterwards
    with pytest.raises(ssl.SSLError, match=r"(?i)peer.did.not.return"):
        shake_hands(one.as_server(verifies_clients=True), nobody, host=EVERY_SERVER)

    stranger = party(tmp_path, trusts=ca(key=Key()))
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(one.as_server(), stranger.as_client(), host=EVERY_SERVER)


def test_a_new_certificate_of_the_ca_verifies_what_was_signed_before_and_the_old_what_comes_after(
    tmp_path: Path,
) -> None:
    renewed = ca(beginning=NOW - timedelta(minutes=1), end=NOW + timedelta(days=7300))
    before, after = server(of=CA), server(of=renewed)
    for certificate, trusts in ((before, renewed), (after, CA), (after, renewed)):
        client = party(tmp_path, certificate=None, trusts=trusts).as_client()
        shake_hands(party(tmp_path, certificate=certificate).as_server(), client, host=EVERY_SERVER)


def test_a_certificate_that_has_ended_is_refused(tmp_path: Path) -> None:
    ended = party(tmp_path, certificate=server(end=NOW - timedelta(seconds=1)))
    client = party(tmp_path, certificate=None)

    with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
        shake_hands(ended.as_server(), client.as_client(), host=EVERY_SERVER)
