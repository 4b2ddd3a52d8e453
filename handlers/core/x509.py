"""Certificates of a small CA: what is to be signed, and reading what has been signed.

Keys are P-256 and signatures ECDSA with SHA-256. Whoever has the CA's private key signs: nothing
here does. Structures are those of RFC 5280, private keys those of RFC 5958 and RFC 5915.
"""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import re
import secrets
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from pyasn1.codec.der import decoder, encoder
from pyasn1.error import PyAsn1Error
from pyasn1.type import char, namedtype, tag, univ, useful
from pyasn1_modules import rfc5280, rfc5480, rfc5915

_LONGEST_COMMON_NAME: Final = 64  # ub-common-name of RFC 5280
_GENERALIZED_TIME_SINCE: Final = 2050  # RFC 5280, 4.1.2.5
_KEY_ID_BYTES: Final = 20
# What a decoder trips over, besides its own errors, when bytes are no ASN.1.
_UNREADABLE: Final = (PyAsn1Error, ValueError, TypeError, LookupError, RecursionError)


class UnreadableError(ValueError):
    """Bytes or a text are not what they have to be; the message never repeats them."""


@dataclass(frozen=True)
class Unsigned:
    """A certificate that waits for its signature."""

    to_be_signed: bytes
    """What the CA's key signs, in DER."""

    def signed(self, signature: bytes) -> str:
        """Return the certificate as PEM."""
        certificate = rfc5280.Certificate()
        certificate["tbsCertificate"] = _decoded(self.to_be_signed, rfc5280.TBSCertificate())
        certificate["signatureAlgorithm"] = _algorithm()
        certificate["signature"] = univ.BitString.fromOctetString(signature)
        return _pem("CERTIFICATE", _der_of(certificate))


@dataclass(frozen=True)
class Certificate:
    """What is read from a certificate. Its signature is not checked."""

    subject: bytes
    """A Name in DER, as `issuer` is."""
    issuer: bytes
    public_key: bytes
    """A SubjectPublicKeyInfo in DER, as KMS tells public keys."""
    not_before: datetime
    not_after: datetime
    is_ca: bool
    key_id: bytes | None
    """Identifies its key (the extension subjectKeyIdentifier)."""
    issuer_key_id: bytes | None
    """Identifies the key that has signed it (the extension authorityKeyIdentifier)."""
    names: tuple[str, ...]
    """The DNS names and IP addresses that it is for."""

    @classmethod
    def read(cls, pem: str) -> Certificate:
        """Read a PEM with one certificate.

        Raises:
            UnreadableError: if it is something else.

        """
        try:
            return cls._from_der(_der_in("CERTIFICATE", pem))
        except _UNREADABLE:
            message = "not a certificate (PEM)"
            raise UnreadableError(message) from None

    @classmethod
    def _from_der(cls, der: bytes) -> Certificate:
        tbs = _decoded(der, rfc5280.Certificate())["tbsCertificate"]
        extensions = {one["extnID"]: bytes(one["extnValue"]) for one in tbs["extensions"]}

        def extension(name: univ.ObjectIdentifier, kind: Any) -> Any:
            return _decoded(extensions[name], kind) if name in extensions else None

        constraints = extension(rfc5280.id_ce_basicConstraints, rfc5280.BasicConstraints())
        key_id = extension(rfc5280.id_ce_subjectKeyIdentifier, rfc5280.SubjectKeyIdentifier())
        authority = extension(
            rfc5280.id_ce_authorityKeyIdentifier, rfc5280.AuthorityKeyIdentifier()
        )
        names = extension(rfc5280.id_ce_subjectAltName, rfc5280.SubjectAltName())
        issuer_key_id = authority["keyIdentifier"] if authority is not None else None
        return cls(
            subject=_der_of(tbs["subject"]),
            issuer=_der_of(tbs["issuer"]),
            public_key=_der_of(tbs["subjectPublicKeyInfo"]),
            not_before=_moment(tbs["validity"]["notBefore"]),
            not_after=_moment(tbs["validity"]["notAfter"]),
            is_ca=constraints is not None and bool(constraints["cA"]),
            key_id=bytes(key_id) if key_id is not None else None,
            issuer_key_id=(
                bytes(issuer_key_id)
                if issuer_key_id is not None and issuer_key_id.hasValue()
                else None
            ),
            names=tuple(_names(names)) if names is not None else (),
        )

    def is_signed_by(self, ca: Certificate) -> bool:
        """Whether it says that the key of a CA has signed it, under the CA's name."""
        return (
            ca.key_id is not None and self.issuer_key_id == ca.key_id and self.issuer == ca.subject
        )

    def has_private_key(self, pem: str) -> bool:
        """Whether a private key says of itself that it is this certificate's.

        Raises:
            UnreadableError: if it is no unencrypted private key.

        """
        try:
            info = _decoded(_der_in("PRIVATE KEY", pem), _PrivateKeyInfo())
            if info["algorithm"]["algorithm"] != rfc5480.id_ecPublicKey:
                return False
            key = _decoded(bytes(info["privateKey"]), rfc5915.ECPrivateKey())
            public = key["publicKey"]
            return bool(public.hasValue() and public.asOctets() == _point(self.public_key))
        except _UNREADABLE:
            message = "not a private key (PEM, PKCS #8)"
            raise UnreadableError(message) from None


def ca_name(common_name: str) -> bytes:
    """Return the Name of a CA, in DER; what does not fit into it is cut off."""
    return _der_of(_name(common_name))


def unsigned_ca(
    *, name: bytes, public_key: bytes, not_before: datetime, not_after: datetime
) -> Unsigned:
    """Return the certificate of a CA of its own, which signs servers' certificates only.

    `name` is its Name in DER, `public_key` a SubjectPublicKeyInfo in DER.
    """
    constraints = rfc5280.BasicConstraints()
    constraints["cA"] = True
    constraints["pathLenConstraint"] = 0
    return _unsigned(
        subject=name,
        issuer=name,
        public_key=public_key,
        validity=(not_before, not_after),
        extensions=[
            _extension(rfc5280.id_ce_basicConstraints, constraints, critical=True),
            _extension(
                rfc5280.id_ce_keyUsage, rfc5280.KeyUsage("keyCertSign,cRLSign"), critical=True
            ),
            _extension(rfc5280.id_ce_subjectKeyIdentifier, _key_id(public_key)),
        ],
    )


def unsigned_server(
    *,
    names: Sequence[str],
    public_key: bytes,
    ca: Certificate,
    not_before: datetime,
    not_after: datetime,
) -> Unsigned:
    """Return the certificate of a server that is a client of the others, too.

    `names` are the DNS names and IP addresses that it is for; the first is its common name.

    Raises:
        ValueError: if the CA's certificate does not identify its key.

    """
    if ca.key_id is None:
        message = "the certificate of the CA has no subjectKeyIdentifier"
        raise ValueError(message)
    usages = rfc5280.ExtKeyUsageSyntax()
    usages.extend([rfc5280.id_kp_serverAuth, rfc5280.id_kp_clientAuth])
    authority = rfc5280.AuthorityKeyIdentifier()
    authority["keyIdentifier"] = ca.key_id
    alternatives = rfc5280.SubjectAltName()
    alternatives.extend([_general_name(name) for name in names])
    return _unsigned(
        subject=_der_of(_name(names[0])),
        issuer=ca.subject,
        public_key=public_key,
        validity=(not_before, not_after),
        extensions=[
            _extension(
                rfc5280.id_ce_basicConstraints, rfc5280.BasicConstraints().clear(), critical=True
            ),
            _extension(rfc5280.id_ce_keyUsage, rfc5280.KeyUsage("digitalSignature"), critical=True),
            _extension(rfc5280.id_ce_extKeyUsage, usages),
            _extension(rfc5280.id_ce_subjectKeyIdentifier, _key_id(public_key)),
            _extension(rfc5280.id_ce_authorityKeyIdentifier, authority),
            _extension(rfc5280.id_ce_subjectAltName, alternatives),
        ],
    )


def require_public_key(der: bytes) -> bytes:
    """Return a SubjectPublicKeyInfo, in the DER that certificates have it in.

    Raises:
        UnreadableError: if it is none.

    """
    try:
        return _der_of(_decoded(der, rfc5280.SubjectPublicKeyInfo()))
    except _UNREADABLE:
        message = "not a public key"
        raise UnreadableError(message) from None


def require_signature(der: bytes) -> bytes:
    """Return a signature of ECDSA.

    Raises:
        UnreadableError: if it is none.

    """
    try:
        _decoded(der, rfc5480.ECDSA_Sig_Value())
    except _UNREADABLE:
        message = "not a signature of ECDSA"
        raise UnreadableError(message) from None
    return der


def private_key_pem(pkcs8: bytes, *, public_key: bytes) -> str:
    """Return a private key as PEM that names its public half, wherever the DER does, or not at all.

    Raises:
        UnreadableError: if it is no private key on an elliptic curve.

    """
    try:
        told = _decoded(pkcs8, _PrivateKeyInfo())
        key = _decoded(bytes(told["privateKey"]), rfc5915.ECPrivateKey())
        key["publicKey"] = key["publicKey"].clone(
            univ.BitString.fromOctetString(_point(public_key))
        )
        info = _PrivateKeyInfo()
        info["version"] = 0
        info["algorithm"] = told["algorithm"]
        info["privateKey"] = _der_of(key)
        return _pem("PRIVATE KEY", _der_of(info))
    except _UNREADABLE:
        message = "not a private key on an elliptic curve"
        raise UnreadableError(message) from None


class _PrivateKeyInfo(univ.Sequence):
    """A private key of either version of RFC 5958; its module imports those of all of CMS."""

    componentType = namedtype.NamedTypes(  # noqa: N815 - pyasn1's name
        namedtype.NamedType("version", univ.Integer()),
        namedtype.NamedType("algorithm", rfc5280.AlgorithmIdentifier()),
        namedtype.NamedType("privateKey", univ.OctetString()),
        namedtype.OptionalNamedType(
            "attributes",
            univ.SetOf(componentType=univ.Any()).subtype(  # type: ignore[no-untyped-call]
                implicitTag=tag.Tag(tag.tagClassContext, tag.tagFormatConstructed, 0)
            ),
        ),
        namedtype.OptionalNamedType(
            "publicKey",
            univ.BitString().subtype(  # type: ignore[no-untyped-call]
                implicitTag=tag.Tag(tag.tagClassContext, tag.tagFormatSimple, 1)
            ),
        ),
    )


# --- parts ---------------------------------------------------------------------------------------


def _unsigned(
    *,
    subject: bytes,
    issuer: bytes,
    public_key: bytes,
    validity: tuple[datetime, datetime],
    extensions: Sequence[Any],
) -> Unsigned:
    tbs = rfc5280.TBSCertificate()
    tbs["version"] = "v3"
    tbs["serialNumber"] = 1 + secrets.randbits(128)
    tbs["signature"] = _algorithm()
    tbs["issuer"] = _decoded(issuer, rfc5280.Name())
    tbs["validity"]["notBefore"] = _time(validity[0])
    tbs["validity"]["notAfter"] = _time(validity[1])
    tbs["subject"] = _decoded(subject, rfc5280.Name())
    tbs["subjectPublicKeyInfo"] = _decoded(public_key, rfc5280.SubjectPublicKeyInfo())
    tbs["extensions"].extend(extensions)
    return Unsigned(_der_of(tbs))


def _algorithm() -> Any:
    algorithm = rfc5280.AlgorithmIdentifier()
    algorithm["algorithm"] = rfc5480.ecdsa_with_SHA256
    return algorithm


def _extension(name: univ.ObjectIdentifier, value: Any, *, critical: bool = False) -> Any:
    extension = rfc5280.Extension()
    extension["extnID"] = name
    extension["critical"] = critical
    extension["extnValue"] = _der_of(value)
    return extension


def _name(common_name: str) -> Any:
    attribute = rfc5280.AttributeTypeAndValue()
    attribute["type"] = rfc5280.id_at_commonName
    attribute["value"] = _der_of(char.UTF8String(common_name[:_LONGEST_COMMON_NAME]))
    relative = rfc5280.RelativeDistinguishedName()
    relative.append(attribute)
    name = rfc5280.Name()
    name["rdnSequence"].append(relative)
    return name


def _general_name(name: str) -> Any:
    found = rfc5280.GeneralName()
    try:
        found["iPAddress"] = ipaddress.ip_address(name).packed
    except ValueError:
        found["dNSName"] = name
    return found


def _names(alternatives: Any) -> Iterator[str]:
    for name in alternatives:
        match name.getName():
            case "dNSName":
                yield str(name["dNSName"])
            case "iPAddress":
                yield str(ipaddress.ip_address(bytes(name["iPAddress"])))
            case other:
                yield f"({other})"


def _time(moment: datetime) -> Any:
    time, moment = rfc5280.Time(), moment.astimezone(UTC)
    if moment.year < _GENERALIZED_TIME_SINCE:
        time["utcTime"] = useful.UTCTime(f"{moment:%y%m%d%H%M%S}Z")
    else:
        time["generalTime"] = useful.GeneralizedTime(f"{moment:%Y%m%d%H%M%S}Z")
    return time


def _moment(time: Any) -> datetime:
    moment: datetime = time.getComponent().asDateTime
    if moment.tzinfo is None:
        message = "there is no offset from UTC"
        raise ValueError(message)
    return moment.astimezone(UTC)


def _point(public_key: bytes) -> bytes:
    info = _decoded(public_key, rfc5280.SubjectPublicKeyInfo())
    point: bytes = info["subjectPublicKey"].asOctets()
    return point


def _key_id(public_key: bytes) -> Any:
    """Return the identifier of a key, by the first method of RFC 7093."""
    digest = hashlib.sha256(_point(public_key)).digest()
    return rfc5280.SubjectKeyIdentifier(digest[:_KEY_ID_BYTES])


def _decoded(der: bytes, kind: Any = None) -> Any:
    found, rest = decoder.decode(der, asn1Spec=kind)
    if rest:
        message = "there is more than one structure"
        raise ValueError(message)
    return found


def _der_of(value: Any) -> bytes:
    encoded: bytes = encoder.encode(value)
    return encoded


def _pem(label: str, der: bytes) -> str:
    body = "\n".join(textwrap.wrap(base64.b64encode(der).decode(), 64))
    return f"-----BEGIN {label}-----\n{body}\n-----END {label}-----\n"


def _der_in(label: str, pem: str) -> bytes:
    found = re.fullmatch(
        rf"\s*-----BEGIN {label}-----([A-Za-z0-9+/=\s]*)-----END {label}-----\s*", pem
    )
    if found is None:
        message = "there is no PEM"
        raise ValueError(message)
    return base64.b64decode("".join(found.group(1).split()), validate=True)
