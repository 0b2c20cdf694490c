"""Credentials in operation templates: sealed before they are stored, opened only for the call that needs them.

The sealed form is the reference's (flow-storage, 5.3), so that a service with the same key opens what the other sealed:
AES-256-GCM under a random nonce of 12 bytes, with the SHA-256 of the key beside it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from opdispatch.errors import InvalidInput

_KEY_BYTES: Final = 32
_NONCE_BYTES: Final = 12
VERSION: Final = 1


class Sealer:
    """Seals and opens with one key.  Neither the key nor what was sealed is ever shown.

    Raises InvalidInput for a key that does not have 32 bytes.
    """

    def __init__(self, key: bytes) -> None:
        if len(key) != _KEY_BYTES:
            raise InvalidInput.at("the data key", f"it has {len(key)} bytes", f"give {_KEY_BYTES}, as base64")
        self._cipher = AESGCM(key)
        self.key_id: Final = hashlib.sha256(key).hexdigest()

    @classmethod
    def from_file(cls, path: Path) -> Sealer:
        """The sealer of a key file: base64 of 32 bytes.  Raises InvalidInput, which names the file and not its text."""
        place = f"the data key {path}"
        try:
            text = path.read_bytes().strip()
        except OSError as error:
            raise InvalidInput.at(place, f"it cannot be read: {error.strerror}", "name a file with the key") from error
        try:
            return cls(base64.b64decode(text, validate=True))
        except binascii.Error as error:
            raise InvalidInput.at(place, "it is not base64", "write 32 bytes as base64 into it") from error

    def __repr__(self) -> str:
        return f"Sealer(key_id={self.key_id[:8]}...)"

    def seal(self, clear: bytes) -> dict[str, Any]:
        """The sealed document of these bytes."""
        nonce = os.urandom(_NONCE_BYTES)
        sealed = nonce + self._cipher.encrypt(nonce, clear, None)
        return {"version": VERSION, "key_id": self.key_id, "ciphertext": base64.b64encode(sealed).decode("ascii")}

    def open(self, sealed: Mapping[str, Any]) -> bytes:
        """The bytes of a sealed document.  Raises InvalidInput when it cannot be opened with this key."""
        place = "authentication_data"
        version, key_id, text = (sealed.get(name) for name in ("version", "key_id", "ciphertext"))
        if version != VERSION or not isinstance(text, str):
            raise InvalidInput.at(place, f"it is sealed in version {version!r}", f"version {VERSION} can be opened")
        if key_id != self.key_id:
            raise InvalidInput.at(place, "it was sealed with another key", "give the service the key of that time")
        try:
            data = base64.b64decode(text, validate=True)
            return self._cipher.decrypt(data[:_NONCE_BYTES], data[_NONCE_BYTES:], None)
        except (InvalidTag, ValueError) as error:
            raise InvalidInput.at(place, "it was changed since it was sealed", "give the credential anew") from error
