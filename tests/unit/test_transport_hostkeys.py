# SPDX-License-Identifier: Apache-2.0
"""Host keys against known_hosts files as people have them."""

import base64
import hashlib
import hmac
import pathlib

import pytest

from nova_smartos.smartos import errors
from nova_smartos.smartos.transport import hostkeys

KIND = "ssh-ed25519"
BLOB = b"\0\0\0\x0bssh-ed25519\0\0\0\x20" + bytes(range(32))
OTHER = b"\0\0\0\x0bssh-ed25519\0\0\0\x20" + bytes(32)
KEY = base64.b64encode(BLOB).decode()
OTHER_KEY = base64.b64encode(OTHER).decode()


def hashed(name: str) -> str:
    salt = bytes(range(20))
    digest = hmac.new(salt, name.encode(), hashlib.sha1).digest()
    return f"|1|{base64.b64encode(salt).decode()}|{base64.b64encode(digest).decode()}"


def check(directory: pathlib.Path, text: str, host: str = "node7", port: int = 22) -> None:
    path = directory / "known_hosts"
    path.write_text(text)
    hostkeys.Verifier(host, port, path).check(KIND, BLOB)


@pytest.mark.parametrize(
    "text",
    [
        f"node7 {KIND} {KEY}\n",
        f"# comment\n\nother,node7,10.0.0.7 {KIND} {KEY} a comment\n",
        f"NODE7 {KIND} {KEY}\n",
        f"node* {KIND} {KEY}\n",
        f"{hashed('node7')} {KIND} {KEY}\n",
        f"node7 {KIND} {OTHER_KEY}\nnode7 {KIND} {KEY}\n",
        f"node7 {KIND} not-base64!\nnode7 {KIND} {KEY}\n",
    ],
)
def test_a_known_key_is_accepted(tmp_path: pathlib.Path, text: str) -> None:
    check(tmp_path, text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        f"node8 {KIND} {KEY}\n",
        f"[node7]:2222 {KIND} {KEY}\n",
        f"{hashed('node8')} {KIND} {KEY}\n",
        f"*,!node7 {KIND} {KEY}\n",
        f"@cert-authority node7 {KIND} {KEY}\n",
        f"|1|broken {KIND} {KEY}\n",
        f"node7 {KIND}\n",
    ],
)
def test_a_key_that_is_not_known_is_refused(tmp_path: pathlib.Path, text: str) -> None:
    with pytest.raises(errors.NotStarted) as caught:
        check(tmp_path, text)
    message = str(caught.value)
    assert not caught.value.retryable
    for needed in (
        "node7",
        hostkeys.fingerprint(BLOB),
        f"{tmp_path}/known_hosts does not hold it",
        "own console",
        f"ssh-keyscan -p 22 node7 >> {tmp_path}/known_hosts",
    ):
        assert needed in message


def test_a_port_is_part_of_the_name(tmp_path: pathlib.Path) -> None:
    text = f"[node7]:2222 {KIND} {KEY}\n"
    check(tmp_path, text, port=2222)
    with pytest.raises(errors.NotStarted):
        check(tmp_path, text, port=2223)


def test_a_changed_key_is_refused_with_both_fingerprints(tmp_path: pathlib.Path) -> None:
    with pytest.raises(errors.NotStarted, match="CHANGED") as caught:
        check(tmp_path, f"\n[node7]:2222 {KIND} {OTHER_KEY}\n", port=2222)
    message = str(caught.value)
    assert not caught.value.retryable
    for needed in (
        hostkeys.fingerprint(BLOB),
        hostkeys.fingerprint(OTHER),
        "(line 2)",
        f"ssh-keygen -R '[node7]:2222' -f {tmp_path}/known_hosts",
        "someone stands between",
    ):
        assert needed in message


def test_a_revoked_key_is_refused_even_if_it_is_also_known(tmp_path: pathlib.Path) -> None:
    with pytest.raises(errors.NotStarted, match="revoked"):
        check(tmp_path, f"node7 {KIND} {KEY}\n@revoked * {KIND} {KEY}\n")


def test_a_file_that_is_missing_holds_no_key(tmp_path: pathlib.Path) -> None:
    with pytest.raises(errors.NotStarted, match="nowhere does not hold it"):
        hostkeys.Verifier("node7", 22, tmp_path / "nowhere").check(KIND, BLOB)


def test_a_file_that_cannot_be_read_is_named(tmp_path: pathlib.Path) -> None:
    with pytest.raises(errors.NotStarted, match="cannot read the host keys"):
        hostkeys.Verifier("node7", 22, tmp_path).check(KIND, BLOB)


def test_the_kinds_that_are_known_come_first(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "known_hosts"
    path.write_text(f"node7 ssh-rsa {KEY}\nnode7 ssh-rsa {OTHER_KEY}\n@revoked node7 x {KEY}\n")
    assert hostkeys.Verifier("node7", 22, path).kinds() == ["ssh-rsa"]


def test_fingerprints_are_those_of_ssh_keygen() -> None:
    expected = base64.b64encode(hashlib.sha256(BLOB).digest()).decode().rstrip("=")
    assert hostkeys.fingerprint(BLOB) == f"SHA256:{expected}"
