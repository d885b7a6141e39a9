# SPDX-License-Identifier: Apache-2.0
"""etc/smartos-direct in every shell that is here: what it lets in, and how it sends."""

import contextlib
import os
import pathlib
import re
import shutil
import struct
import subprocess
from collections.abc import Iterator

import pytest

from tests import direct as operators
from tests import waits

SHELLS = [shell for shell in ("dash", "bash", "ksh", "busybox") if shutil.which(shell)]
REFUSED = 126
VM = "6a1f3c52-0b7e-4d7a-9c55-1f0e2d3c4b5a"


# what the key of another node may do


MARK = f"-o nova:copy-of={VM}"
ALLOWED = [
    f"-u -s -F {MARK} -o compression=lz4 -o smartdc:own=a/b zones/{VM}",
    f"-u {MARK} zones/{VM}-disk0",
    f"-u {MARK} -o refreservation=10 zones/{VM}/disk12",
    f"-u -s {MARK} -o canmount=noauto -o mountpoint=/data zones/{VM}/data",
    f"-u -s {MARK} -o canmount=noauto zones/{VM}/data/a-b/Own_1.2",
    f"-u -F {MARK} zones/{VM}/disk",
    f"-u {MARK} -o refreservation=none zones/{VM}/data/disk0",
]
DISK = re.compile(r"[-/]disk[0-9]+$")
FILESYSTEM, VOLUME = 2, 3


def start(kind: int, *, version: int = 1, magic: int = 0x2F5BACBAC, record: int = 0) -> bytes:
    """The first record of a stream."""
    return struct.pack("<IIQQQI", record, 0, magic, version, 0, kind).ljust(312, b"\0")


def start_for(words: str) -> bytes:
    return start(VOLUME if DISK.search(words) else FILESYSTEM)


@pytest.fixture
def custom(tmp_path: pathlib.Path) -> pathlib.Path:
    """A node's root with the script, and a zfs that says what it was told.

    What its datasets are is in the file `props`: NAME PROPERTY VALUE.
    """
    for folder in ("opt/custom/bin", "opt/custom/etc", "etc/zones", "bin"):
        (tmp_path / folder).mkdir(parents=True)
    shutil.copy(operators.SCRIPT, tmp_path / "opt/custom/bin")
    own(tmp_path, "zones", "type", "filesystem")
    program(
        tmp_path / "bin/zfs",
        f"""
        case $1 in
        get)
            while read -r name property value; do
                [ "$name $property" != "$6 $5" ] || {{ echo "$value"; exit; }}
            done < {tmp_path}/props
            [ ! -e {tmp_path}/silent ] || exit 1
            echo "cannot open '$6': dataset does not exist" >&2
            exit 1
            ;;
        esac
        printf '%s|' "$@"
        [ "$1" != receive ] || {{ cat > {tmp_path}/stream; exit 3; }}
        """,
    )
    return tmp_path


def own(custom: pathlib.Path, name: str, prop: str, value: str) -> None:
    with (custom / "props").open("a") as props:
        props.write(f"{name} {prop} {value}\n")


def program(path: pathlib.Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}")
    path.chmod(0o755)


def words_of(shell: str) -> list[str]:
    return ["busybox", "sh"] if shell == "busybox" else [shell]


def receive(
    custom: pathlib.Path,
    line: str,
    shell: str = "sh",
    script: str = "opt/custom/bin",
    stream: bytes | None = None,
) -> subprocess.CompletedProcess[str]:
    path = f"{custom / 'bin'}:/usr/bin:/bin"
    done = subprocess.run(
        [*words_of(shell), str(custom / script / "smartos-direct"), "receive", path],
        env={"PATH": os.environ["PATH"], "SSH_ORIGINAL_COMMAND": line, "TMPDIR": str(custom)},
        input=start_for(line) if stream is None else stream,
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert list(custom.glob("smartos-direct.*")) == []
    out, err = done.stdout.decode(), done.stderr.decode()
    return subprocess.CompletedProcess(done.args, done.returncode, out, err)


def refused(done: subprocess.CompletedProcess[str], why: str = "") -> bool:
    said = done.stderr.startswith("smartos-direct: refused: ") and why in done.stderr
    return said and (done.returncode, done.stdout) == (REFUSED, "")


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("words", ALLOWED)
def test_datasets_of_a_vm_that_is_not_there_are_received(
    custom: pathlib.Path, shell: str, words: str
) -> None:
    stream = start_for(words) + os.urandom(100_000)
    done = receive(custom, f"zfs receive {words}", shell, stream=stream)
    # its exit status, too
    assert (done.returncode, done.stdout.split("|")[:-1]) == (3, ["receive", *words.split()])
    assert (custom / "stream").read_bytes() == stream
    # a second part of the same move
    own(custom, f"zones/{VM}", "nova:copy-of", VM)
    own(custom, words.rsplit(maxsplit=1)[-1], "nova:copy-of", VM)
    assert receive(custom, f"zfs receive {words}", shell).returncode == 3
    (custom / f"etc/zones/{VM}.xml").touch()
    done = receive(custom, f"zfs receive {words}", shell)
    assert refused(done, f"there is a VM {VM} already")


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("words", ALLOWED)
@pytest.mark.parametrize("mark", ["-", VM.replace("6", "7")])
def test_what_is_no_copy_of_it_is_not_overwritten(
    custom: pathlib.Path, shell: str, words: str, mark: str
) -> None:
    name = words.rsplit(maxsplit=1)[-1]
    own(custom, name, "nova:copy-of", mark)
    assert refused(receive(custom, f"zfs receive {words}", shell), f"there is a {name} already")
    # nor is anything put below or beside it
    (custom / "props").write_text(f"zones/{VM} nova:copy-of {mark}\n")
    assert refused(receive(custom, f"zfs receive {words}", shell), f"a zones/{VM} already")


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("words", ALLOWED)
def test_no_word_that_keeps_it_from_the_node_may_be_missing(
    custom: pathlib.Path, shell: str, words: str
) -> None:
    given = words.removesuffix(" " + words.rsplit(maxsplit=1)[-1]).replace(" -", "\n-").split("\n")
    for each in ("-u", MARK):
        less = " ".join([*(one for one in given if one != each), words.rsplit(maxsplit=1)[-1]])
        assert refused(receive(custom, f"zfs receive {less}", shell), "not the words of a move")


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    ("words", "stream"),
    [
        *(
            (words, start(kind, **given))
            for words, kind in zip(ALLOWED, (FILESYSTEM, VOLUME), strict=False)
            for given in (
                {"version": 0},
                {"version": 2},
                {"version": 3},
                {"magic": 0x2F5BACBAD},
                {"magic": int.from_bytes(0x2F5BACBAC.to_bytes(8, "little"), "big")},
                {"record": 1},
            )
        ),
        (ALLOWED[0], start(VOLUME)),
        (ALLOWED[0], start(0)),
        (ALLOWED[1], start(FILESYSTEM)),
        # nobody is to mount it yet
        (ALLOWED[3].replace("-o canmount=noauto", ""), start(FILESYSTEM)),
        (ALLOWED[4].replace("-o canmount=noauto", ""), start(FILESYSTEM)),
        # those that end too soon
        (ALLOWED[0], b""),
        (ALLOWED[0], start(FILESYSTEM)[:20]),
    ],
)
def test_a_stream_that_would_lead_zfs_is_refused(
    custom: pathlib.Path, shell: str, words: str, stream: bytes
) -> None:
    """One of several snapshots, or of another kind than the name says."""
    done = receive(custom, f"zfs receive {words}", shell, stream=stream)
    assert refused(done, "its stream is not of one")


@pytest.mark.parametrize("shell", SHELLS)
def test_features_of_a_stream_are_no_matter(custom: pathlib.Path, shell: str) -> None:
    for version in (0x5, 0x1D, 0x1 | 1 << 24 << 2):
        stream = start(FILESYSTEM, version=version)
        assert receive(custom, f"zfs receive {ALLOWED[0]}", shell, stream=stream).returncode == 3


@pytest.mark.parametrize("shell", SHELLS)
def test_a_vm_that_comes_while_the_stream_waits_is_safe(custom: pathlib.Path, shell: str) -> None:
    path = f"{custom / 'bin'}:/usr/bin:/bin"
    line = f"zfs receive {ALLOWED[0]}"
    with subprocess.Popen(
        [*words_of(shell), str(custom / "opt/custom/bin/smartos-direct"), "receive", path],
        env={"PATH": os.environ["PATH"], "SSH_ORIGINAL_COMMAND": line, "TMPDIR": str(custom)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        waits.until(lambda: list(custom.glob("smartos-direct.*")), "it to wait")
        (custom / f"etc/zones/{VM}.xml").touch()
        out, err = process.communicate(start(FILESYSTEM), timeout=30)
    assert (process.returncode, out) == (REFUSED, b"")
    assert f"there is a VM {VM} already" in err.decode()


@pytest.mark.parametrize("shell", SHELLS)
def test_where_zfs_does_not_answer_nothing_is_received(custom: pathlib.Path, shell: str) -> None:
    (custom / "silent").touch()
    for words in ALLOWED:
        assert refused(
            receive(custom, f"zfs receive {words}", shell), "zfs does not say what zones"
        )


@pytest.mark.parametrize("shell", SHELLS)
def test_the_name_of_an_image_is_not_taken(custom: pathlib.Path, shell: str) -> None:
    (custom / "var/imgadm/images").mkdir(parents=True)
    (custom / f"var/imgadm/images/zones-{VM}.json").touch()
    assert refused(receive(custom, f"zfs receive {ALLOWED[0]}", shell), f"{VM} is an image")


@pytest.mark.parametrize("shell", SHELLS)
def test_a_node_whose_vms_it_cannot_see_takes_nothing(custom: pathlib.Path, shell: str) -> None:
    shutil.copy(operators.SCRIPT, custom / "bin")
    line = f"zfs receive {ALLOWED[0]}"
    assert refused(receive(custom, line, shell, script="bin"), "is not /opt/custom/bin")
    (custom / "etc/zones").rmdir()
    assert refused(receive(custom, line, shell), "there is no")
    assert refused(receive(custom, "check", shell), "there is no")


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    "line",
    [
        "",
        "id",
        "check id",
        "zfs list",
        "zfs destroy zones",
        "zfs receive",
        *(
            f"zfs receive -u {MARK} {rest}"
            for rest in (
                "zones",
                "zones/usbkey",
                "zones/nova-smartos/x",
                f"zones/{VM}x",
                f"zones/{VM}-copy",
                f"zones/{VM}-disk",
                f"zones/{VM}@a",
                f"zones/{VM}/../usbkey",
                f"zones/{VM}//data",
                f"zones/{VM.upper()}",
                f"zones/{VM[:-1]}/",
                f"-d zones/{VM}",
                f"-e zones/{VM}",
                f"-A zones/{VM}",
                f"-o mountpoint=/etc zones/{VM}",
                f"-o nova:copy-of={VM.replace('6', '7')} zones/{VM}",
                f"-o zoned=on zones/{VM}",
                f"-o zoned=on -o canmount=noauto zones/{VM}/data",
                f"-o canmount=on zones/{VM}/data",
                f"-o canmount=noauto -o canmount=on zones/{VM}/data/x",
                f"-o canmount=on zones/{VM}",
                f"-o mountpoint=/etc zones/{VM}/cores",
                f"-o canmount=noauto -o sharenfs=on zones/{VM}/data/x",
                f"-o sharesmb=on zones/{VM}",
                f"-o keylocation=file:///etc/shadow zones/{VM}",
                f"-o Mountpoint=/etc zones/{VM}",
                f"-o mountPOINT=/etc zones/{VM}",
                f"-x mountpoint zones/{VM}",
                f"-o -d zones/{VM}",
                f"-o zones/{VM}",
                f"-x zones/{VM}",
                f"-x -u zones/{VM}",
                f"zones/usbkey zones/{VM}",
                f"zones/{VM}; id",
                f"$(id) zones/{VM}",
                f"zones/{VM}\nid",
                f"'zones/{VM}'",
                "*",
            )
        ),
        # ps would not show the mark
        f"zfs receive -u -o compression=lz4 {MARK} zones/{VM}",
        f"zfs receive -u -u -u -u -u {MARK} zones/{VM}",
        f"zfs receive {MARK} -u zones/{VM}",
    ],
)
def test_the_key_of_a_node_is_for_nothing_else(custom: pathlib.Path, shell: str, line: str) -> None:
    assert refused(receive(custom, line, shell))


# what a node sends


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    "words",
    [
        ["send"],
        ["send", "root@node", "22", "a@b"],
        ["send", "root@node", "22", "a@b", "--"],
        ["send", "root@-oProxyCommand=id", "22", "a@b", "--", "c"],
        ["send", "-oProxyCommand=id", "22", "a@b", "--", "c"],
        ["send", "node", "22", "a@b", "--", "c"],
        ["send", "root@node", "22x", "a@b", "--", "c"],
        ["send", "root@node", "22", "a@b", "--", "c;id"],
        ["send", "root@node", "22", "a b", "--", "c"],
        ["check"],
        ["check", "node", "22"],
        ["check", "root@node"],
        [],
        ["id"],
    ],
)
def test_what_the_script_does_not_send(shell: str, words: list[str]) -> None:
    done = subprocess.run(
        [*words_of(shell), str(operators.SCRIPT), *words],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert refused(done)


@contextlib.contextmanager
def sending(custom: pathlib.Path, shell: str, *words: str) -> Iterator["subprocess.Popen[str]"]:
    script = str(custom / "opt/custom/bin/smartos-direct")
    with subprocess.Popen(
        [*words_of(shell), script, *words],
        env={"PATH": f"{custom}/bin:{os.environ['PATH']}"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        yield process


SENT = ("send", "root@there", "2222", "-p", "a@b", "--", "-u", "c")


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("status", [0, 1, 255])
def test_how_it_ended_is_how_the_other_side_ended(
    custom: pathlib.Path, shell: str, status: int
) -> None:
    program(
        custom / "bin/zfs",
        """
        echo "$*" >&2
        printf 'full\ta@b\t10\nsize\t10\n' >&2
        printf '12:00:01\t4\ta@b\n12:00:02\t4\ta@b\n12:00:03\t8\ta@b\n' >&2
        printf stream
        """,
    )
    program(custom / "bin/ssh", f'echo "$*" >&2; read -r it; echo "$it" >&2; exit {status}')
    with sending(custom, shell, *SENT) as process:
        # its input stays open
        assert process.stdout and process.stderr
        out = process.stdout.read()
        assert process.wait(waits.SECONDS) == status
        err = process.stderr.read()
    # what stands still says nothing
    assert out == "12:00:01\t4\ta@b\n12:00:03\t8\ta@b\n"

    assert sorted(err.splitlines()) == sorted(
        [
            "send -vP -p a@b",
            f"-F {custom}/opt/custom/etc/smartos-direct.ssh -o BatchMode=yes -o"
            " StrictHostKeyChecking=yes -o ConnectTimeout=15 -o ServerAliveInterval=15 -T -p 2222"
            " root@there zfs receive -u c",
            "stream",
        ]
    )


@pytest.mark.parametrize("shell", SHELLS)
def test_it_ends_with_its_input(custom: pathlib.Path, shell: str) -> None:
    program(custom / "bin/zfs", f"echo $$ > {custom}/zfs.pid; exec sleep 600")
    program(custom / "bin/ssh", f"echo $$ > {custom}/ssh.pid; exec sleep 600")
    files = [custom / "zfs.pid", custom / "ssh.pid"]
    with sending(custom, shell, *SENT) as process:
        waits.until(lambda: all(each.exists() and each.read_text() for each in files))
        assert process.stdin
        process.stdin.close()
        assert process.wait(waits.SECONDS) != 0
    for each in files:
        left = pathlib.Path("/proc", each.read_text().strip(), "cmdline")
        waits.until(lambda left=left: not left.exists() or not left.read_bytes())
