"""A certificate authority for tests."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from medsal.pacs.nodes import Tls

HOST = "127.0.0.1"


@dataclass(frozen=True)
class Certificate:
    """Paths of a certificate and its key."""

    certificate: Path
    key: Path

    def tls(self, ca: Path) -> Tls:
        return Tls(ca=ca, certificate=self.certificate, key=self.key)


class Authority:
    """A certificate authority with what it issued, and one of strangers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.ca, self._own = self._authority("ca")
        self.stranger_ca, self._strange = self._authority("stranger")
        self.server = self.issue("server", ("localhost", HOST))
        self.client = self.issue("client", ("localhost", HOST))
        self.elsewhere = self.issue("elsewhere", ("pacs.elsewhere.example",))
        self.rogue = self.issue("rogue", ("localhost", HOST), strange=True)

    def _authority(self, name: str):
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = _certificate(name, key, None, ())
        path = self.folder / f"{name}.pem"
        path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        return path, (certificate, key)

    def issue(self, name: str, hosts: Sequence[str], strange: bool = False) -> Certificate:
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = _certificate(name, key, self._strange if strange else self._own, hosts)
        made = Certificate(self.folder / f"{name}.pem", self.folder / f"{name}.key")
        made.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        made.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        made.key.chmod(0o600)
        return made


def _certificate(name: str, key, issuer, hosts: Sequence[str]) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"medsal tests {name}")])
    above, signer = (issuer[0].subject, issuer[1]) if issuer else (subject, key)
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(above)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=30))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    )
    if issuer is None:
        usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
        builder = builder.add_extension(usage, critical=True)
    else:
        names = [_name(host) for host in hosts]
        both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        builder = builder.add_extension(x509.ExtendedKeyUsage(both), critical=False)
    return builder.sign(signer, hashes.SHA256())


def _name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
