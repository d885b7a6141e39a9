# SPDX-License-Identifier: Apache-2.0
"""Signatures of our own over ZFS streams: what a node of this cloud has made, its others may read.

A stream is read by the kernel, so only streams of owners that the operator trusts are taken. One
that this driver has made of a server needs no trusted owner: the kernel wrote it, not the tenant.
The signature says so, and that not one byte has changed since. All computes share its key.
"""

import hashlib
import hmac
import pathlib
from typing import Any

from oslo_config import cfg

#: Image property: our signature over the file's bytes.
PROPERTY = "smartos_signature"
OPTION = "image_signing_key_file"
#: A shorter key could be found by trying.
KEY_BYTES = 32

# What is signed begins with what it is: no other use of the key gives a signature of an image.
_DOMAIN = b"nova-smartos image 1"


class Signer:
    """Signs and checks with the key that the options name; without one, nothing is signed."""

    def __init__(self, options: Any) -> None:
        path = options.image_signing_key_file
        self._key = None if path is None else _key(pathlib.Path(path))

    @property
    def signs(self) -> bool:
        """Whether there is a key."""
        return self._key is not None

    def sign(self, sha256_digest: bytes, image_type: str) -> str | None:
        """The signature over a stream of that SHA-256 and smartos_image_type; None without a key.

        The type is part of it, for it decides what is done with the bytes.
        """
        if self._key is None:
            return None
        if len(sha256_digest) != hashlib.sha256().digest_size:
            raise ValueError(f"a SHA-256 has no {len(sha256_digest)} bytes")
        signed = b"\0".join((_DOMAIN, image_type.encode(), sha256_digest))
        return hmac.new(self._key, signed, hashlib.sha256).hexdigest()

    def valid(self, signature: str, sha256_digest: bytes, image_type: str) -> bool:
        """Whether that is our signature over just these bytes; never so without a key."""
        right = self.sign(sha256_digest, image_type)
        # as bytes: what a tenant has written may be any text
        return right is not None and hmac.compare_digest(right.encode(), signature.encode())


def _key(path: pathlib.Path) -> bytes:
    try:
        key = path.read_bytes().strip()
    except OSError as error:
        raise cfg.ConfigFileValueError(f"[smartos]{OPTION}: {error}") from error
    if len(key) < KEY_BYTES:
        raise cfg.ConfigFileValueError(
            f"[smartos]{OPTION}: {path} has a key of {len(key)} bytes, at least {KEY_BYTES} are "
            "needed"
        )
    return key
