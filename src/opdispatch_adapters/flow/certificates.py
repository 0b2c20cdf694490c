"""Certificate files, where Flow looks for them, and the credentials that they make (flow-grpc, 1.2).

A server reads them again when they change, so that certificates are replaced while it serves.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import attrs
import grpc
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from opdispatch.errors import InvalidInput

_LOG: Final = logging.getLogger("opdispatch.flow")
DIRECTORY: Final = Path("/var/run/secrets/spiffe.io")
"""Where the certificates are when neither a flag nor ``CERTDIR`` says."""
_NAMES: Final = ("ca.crt", "tls.crt", "tls.key")
Pems = tuple[bytes, bytes, bytes]


@attrs.frozen(kw_only=True)
class Certificates:
    """The files of a service: the authority that it trusts, its certificate chain and its key, all PEM."""

    ca: Path
    cert: Path
    key: Path = attrs.field(repr=False)

    def read(self) -> Pems:
        """What is in the files.  Raises InvalidInput, which names the file, for what cannot be used."""
        ca, cert, key = (self._text(path) for path in (self.ca, self.cert, self.key))
        for path, pem in ((self.ca, ca), (self.cert, cert)):
            try:
                x509.load_pem_x509_certificates(pem)
            except ValueError as error:
                raise InvalidInput.at(str(path), "it holds no certificate", "give a PEM file") from error
        try:
            private = serialization.load_pem_private_key(key, None)
        except (TypeError, ValueError) as error:
            raise InvalidInput.at(str(self.key), "it holds no key that can be used", "give an open PEM key") from error
        public = serialization.PublicFormat.SubjectPublicKeyInfo
        mine = private.public_key().public_bytes(serialization.Encoding.DER, public)
        told = x509.load_pem_x509_certificates(cert)[0].public_key().public_bytes(serialization.Encoding.DER, public)
        if mine != told:
            raise InvalidInput.at(str(self.key), f"it is not the key of {self.cert}", "give the pair")
        return ca, cert, key

    @staticmethod
    def _text(path: Path) -> bytes:
        try:
            return path.read_bytes()
        except OSError as error:
            raise InvalidInput.at(str(path), f"it cannot be read: {error.strerror}", "name a file that can") from error


def find(
    ca: Path | None, cert: Path | None, key: Path | None, environment: Mapping[str, str] = os.environ
) -> Certificates | None:
    """The certificates that flags name, all three or none, else those of ``CERTDIR``, else those of the usual place.

    None where there are none.  Raises InvalidInput when only some are named, or only some are there.
    """
    given = {"--ca-cert": ca, "--tls-cert": cert, "--tls-key": key}
    missing = [flag for flag, path in given.items() if path is None]
    if ca is not None and cert is not None and key is not None:
        return Certificates(ca=ca, cert=cert, key=key)
    if len(missing) < len(given):
        raise InvalidInput.at(", ".join(missing), "only some of the certificates are named", "name all three, or none")
    named = environment.get("CERTDIR")
    directory = Path(named) if named else DIRECTORY
    paths = [directory / name for name in _NAMES]
    there = [path for path in paths if path.exists()]
    if not there:
        if named:
            raise InvalidInput.at("CERTDIR", f"{directory} holds none of {', '.join(_NAMES)}", "name where they are")
        return None
    if len(there) < len(paths):
        lost = ", ".join(str(path) for path in paths if path not in there)
        raise InvalidInput.at(str(directory), f"{lost} is not there", "put all three there, or none")
    return Certificates(ca=paths[0], cert=paths[1], key=paths[2])


class _Watched:
    """The credentials of a server: asked for at every handshake, read again when a file has changed."""

    def __init__(self, certificates: Certificates) -> None:
        self._certificates = certificates
        self._guard = threading.Lock()
        self._pems = certificates.read()

    def configuration(self) -> grpc.ServerCertificateConfiguration:
        ca, cert, key = self._pems
        return grpc.ssl_server_certificate_configuration([(key, cert)], root_certificates=ca)

    def changed(self) -> grpc.ServerCertificateConfiguration | None:
        """The new configuration; None while nothing changed, or while what is there cannot be used."""
        with self._guard:
            try:
                pems = self._certificates.read()
            except InvalidInput as error:
                _LOG.error("the certificates in use stay, because the new ones cannot be used: %s", error)
                return None
            if pems == self._pems:
                return None
            self._pems = pems
            _LOG.info("the certificates were replaced")
            return self.configuration()


def server_credentials(certificates: Certificates) -> grpc.ServerCredentials:
    """TLS 1.2 or later, a client certificate of the authority required.  Raises InvalidInput."""
    watched = _Watched(certificates)
    return grpc.dynamic_ssl_server_credentials(
        watched.configuration(),
        watched.changed,  # type: ignore[arg-type]  # the library takes None for unchanged
        require_client_authentication=True,
    )
