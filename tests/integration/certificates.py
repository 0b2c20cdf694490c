"""A small authority for tests: certificates with SPIFFE ids, as files."""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from opdispatch_adapters.flow.certificates import Certificates


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


class Authority:
    """Signs certificates."""

    def __init__(self, path: Path, name: str = "authority") -> None:
        path.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._name = _name(name)
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.file = path / "ca.crt"
        self.file.write_bytes(
            self._signed(self._name, self._key, x509.BasicConstraints(ca=True, path_length=0)).public_bytes(
                serialization.Encoding.PEM
            )
        )

    def _signed(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, *extensions: x509.ExtensionType
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(hours=1))
        )
        for extension in extensions:
            builder = builder.add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
        return builder.sign(self._key, hashes.SHA256())

    def issue(self, name: str, spiffe: str | None = None) -> Certificates:
        """A certificate for this host and, where one is given, for a SPIFFE id; what was issued to the name before is
        replaced."""
        key = ec.generate_private_key(ec.SECP256R1())
        names: list[x509.GeneralName] = [
            x509.DNSName("localhost"),
            x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
        ]
        if spiffe is not None:
            names.append(x509.UniformResourceIdentifier(spiffe))
        certificate = self._signed(_name(name), key, x509.SubjectAlternativeName(names))
        cert, private = self.path / f"{name}.crt", self.path / f"{name}.key"
        cert.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        private.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return Certificates(ca=self.file, cert=cert, key=private)
