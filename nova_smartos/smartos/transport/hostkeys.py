# SPDX-License-Identifier: Apache-2.0
"""Is this server the node we know? Its key against a known_hosts file, in OpenSSH's format."""

import base64
import binascii
import dataclasses
import fnmatch
import hashlib
import hmac
import pathlib
from collections.abc import Iterator

from nova_smartos.smartos import errors

REVOKED = "@revoked"


@dataclasses.dataclass(frozen=True)
class Known:
    """One line of known_hosts that is about the host in question."""

    line: int
    kind: str
    blob: bytes
    revoked: bool


@dataclasses.dataclass(frozen=True)
class Verifier:
    """Knows the keys of one host; refuses every other key and adds none by itself."""

    host: str
    port: int
    path: pathlib.Path

    @property
    def name(self) -> str:
        """The host as known_hosts writes it."""
        return self.host if self.port == 22 else f"[{self.host}]:{self.port}"

    def known(self) -> list[Known]:
        """Return the keys that the file holds for this host."""
        try:
            text = self.path.read_text("utf-8", "surrogateescape")
        except FileNotFoundError:
            return []
        except OSError as error:
            raise errors.NotStarted(
                f"cannot read the host keys in {self.path}: {error.strerror}", retryable=False
            ) from error
        return list(_entries(text, self.name.lower()))

    def kinds(self) -> list[str]:
        """Return the kinds of key that are known, for the server to be asked for one of them."""
        return list(dict.fromkeys(entry.kind for entry in self.known() if not entry.revoked))

    def check(self, kind: str, blob: bytes) -> None:
        """Return if the server's key is known; raise a NotStarted that says what to do if not."""
        known = self.known()
        same = [entry for entry in known if entry.blob == blob]
        if any(entry.revoked for entry in same):
            raise self._refused(f"it is revoked in {self.path}. Do not connect", kind, blob)
        if same:
            return
        valid = [entry for entry in known if not entry.revoked]
        raise self._refused(self._changed(valid) if valid else self._missing(), kind, blob)

    def _refused(self, reason: str, kind: str, blob: bytes) -> errors.NotStarted:
        message = f"host key of {self.name} refused ({kind} {fingerprint(blob)}): {reason}"
        return errors.NotStarted(message, retryable=False)

    def _missing(self) -> str:
        return (
            f"{self.path} does not hold it. Compare the fingerprint with what"
            " `ssh-keygen -lf` prints for the public key on the node's own console; only if they"
            f" are equal, add it: ssh-keyscan -p {self.port} {self.host} >> {self.path}"
        )

    def _changed(self, known: list[Known]) -> str:
        expected = ", ".join(f"{e.kind} {fingerprint(e.blob)} (line {e.line})" for e in known)
        return (
            f"it has CHANGED; {self.path} holds {expected}. Either the node was installed again"
            " or someone stands between. Compare the fingerprint on the node's own console; only"
            f" if they are equal, forget the old key: ssh-keygen -R '{self.name}' -f {self.path},"
            f" and add the new one: ssh-keyscan -p {self.port} {self.host} >> {self.path}"
        )


def fingerprint(blob: bytes) -> str:
    """Return a key's fingerprint as ssh-keygen -l prints it."""
    digest = base64.b64encode(hashlib.sha256(blob).digest()).decode()
    return "SHA256:" + digest.rstrip("=")


def _entries(text: str, name: str) -> Iterator[Known]:
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.split()
        marker = words.pop(0) if words and words[0].startswith("@") else ""
        # a certificate authority signs other keys; it is none of a host's own
        if len(words) < 3 or words[0].startswith("#") or marker not in ("", REVOKED):
            continue
        if not _matches(words[0], name):
            continue
        try:
            blob = base64.b64decode(words[2], validate=True)
        except binascii.Error:
            continue
        yield Known(number, words[1], blob, marker == REVOKED)


def _matches(patterns: str, name: str) -> bool:
    found = False
    for pattern in patterns.split(","):
        negated = pattern.startswith("!")
        if not _matches_one(pattern.removeprefix("!"), name):
            continue
        if negated:
            return False
        found = True
    return found


def _matches_one(pattern: str, name: str) -> bool:
    if pattern.startswith("|1|"):
        return _matches_hash(pattern, name)
    # Only * and ? are special; the brackets of "[host]:port" are meant as they stand.
    return fnmatch.fnmatchcase(name, pattern.lower().replace("[", "[[]"))


def _matches_hash(pattern: str, name: str) -> bool:
    try:
        salt, digest = (base64.b64decode(part) for part in pattern[3:].split("|"))
    except ValueError:
        return False
    # sha1 is what the format of known_hosts uses to hide names; it vouches for nothing here.
    expected = hmac.new(salt, name.encode("utf-8", "surrogateescape"), hashlib.sha1).digest()
    return hmac.compare_digest(expected, digest)
