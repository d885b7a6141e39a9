# SPDX-License-Identifier: Apache-2.0
"""Our signatures over ZFS streams: right for the very bytes and type, and for nothing else."""

import hashlib
import pathlib
import types

import pytest
from oslo_config import cfg

from nova_smartos.operations import signing

DIGEST = hashlib.sha256(b"a stream").digest()
TYPE = "zone-dataset"


def signer(path: pathlib.Path | None) -> signing.Signer:
    options = types.SimpleNamespace(image_signing_key_file=None if path is None else str(path))
    return signing.Signer(options)


@pytest.fixture
def key(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "key"
    path.write_bytes(b"k" * 64 + b"\n")
    return path


def test_what_one_compute_signs_another_takes(key: pathlib.Path, tmp_path: pathlib.Path) -> None:
    copied = tmp_path / "copy"
    copied.write_bytes(key.read_bytes().rstrip())
    signature = signer(key).sign(DIGEST, TYPE)
    assert signature is not None and len(signature) == 64
    assert signer(copied).valid(signature, DIGEST, TYPE)


@pytest.mark.parametrize(
    ("spoil", "digest", "type_"),
    [
        (lambda signature: signature, hashlib.sha256(b"other").digest(), TYPE),
        (lambda signature: signature, DIGEST, "lx-dataset"),
        (lambda signature: "0" * 64, DIGEST, TYPE),
        (lambda signature: signature[:-1], DIGEST, TYPE),
        (lambda signature: "", DIGEST, TYPE),
        (lambda signature: "²" * 64, DIGEST, TYPE),
    ],
    ids=["other bytes", "another type", "zeros", "cut off", "empty", "no digits"],
)
def test_nothing_else_is_right(key: pathlib.Path, spoil: object, digest: bytes, type_: str) -> None:
    assert callable(spoil)
    ours = signer(key)
    assert not ours.valid(spoil(ours.sign(DIGEST, TYPE)), digest, type_)


def test_another_key_is_another_cloud(key: pathlib.Path, tmp_path: pathlib.Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"o" * 64)
    assert not signer(other).valid(str(signer(key).sign(DIGEST, TYPE)), DIGEST, TYPE)


def test_without_a_key_nothing_is_signed_and_nothing_right(key: pathlib.Path) -> None:
    signature = str(signer(key).sign(DIGEST, TYPE))
    assert signer(None).sign(DIGEST, TYPE) is None
    assert not signer(None).valid(signature, DIGEST, TYPE)
    assert not signer(None).valid("None", DIGEST, TYPE)


def test_only_a_whole_digest_is_signed(key: pathlib.Path) -> None:
    with pytest.raises(ValueError, match="no 3 bytes"):
        signer(key).sign(DIGEST[:3], TYPE)


def test_a_key_that_is_none(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "key"
    with pytest.raises(cfg.ConfigFileValueError, match="No such file"):
        signer(path)
    path.write_bytes(b"k" * 31 + b"\n" * 40)
    with pytest.raises(cfg.ConfigFileValueError, match="31 bytes"):
        signer(path)
