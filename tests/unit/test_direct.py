# SPDX-License-Identifier: Apache-2.0
"""From node to node without this process: the script, and what happens where it does not work."""

import contextlib
import os
import pathlib
import re
import shutil
import struct
import subprocess
import threading
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from nova_smartos.operations import transfer
from nova_smartos.smartos import direct, errors, node, transport
from tests import direct as operators
from tests import emulated, waits

SHELLS = [shell for shell in ("dash", "bash", "ksh", "busybox") if shutil.which(shell)]
REFUSED = 126
VM = "6a1f3c52-0b7e-4d7a-9c55-1f0e2d3c4b5a"

pytestmark = pytest.mark.skipif(
    not (shutil.which("sshd") or os.path.exists("/usr/sbin/sshd")),
    reason="the package openssh-server is missing",
)


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


# two nodes


class Pair:
    """Two nodes, and a server's dataset on the first."""

    def __init__(self, here: emulated.EmulatedNode, there: emulated.EmulatedNode) -> None:
        self.here, self.there = here, there
        self.source, self.target = reached(here), reached(there)
        ssh = there.facts()["ssh"]
        self.address = direct.Address(ssh["host"], ssh["port"], ssh["user"])
        self.uuid = str(uuid.uuid4())
        self.name = f"zones/{self.uuid}"
        #: what this process has read to pass it on
        self.relayed: list[Sequence[str]] = []
        self._sent = self.source.zfs.sent
        self.source.zfs.sent = self._relay  # type: ignore[method-assign]

    def _relay(self, words: Sequence[str]) -> Any:
        self.relayed.append(words)
        return self._sent(words)

    def make(self, mib: int = 1) -> None:
        """Make the dataset, with files and two snapshots."""
        self.source.zfs.create(self.name)
        self.write("first", b"1" * mib * 2**20)
        self.source.zfs.snapshot(f"{self.name}@a")
        self.write("second", b"2")
        self.source.zfs.snapshot(f"{self.name}@b")

    def write(self, name: str, data: bytes) -> None:
        (self.here.directory / "root" / self.name / name).write_bytes(data)

    def moving(self, **more: int) -> transfer.Transfer:
        return transfer.Transfer(self.source, self.target, self.uuid, address=self.address, **more)

    def part(self) -> transfer.Part:
        return transfer.Part(self.name, tuple("ab"), properties={transfer.COPY: self.uuid})

    def arrived(self) -> bool:
        """Whether the target has all of it, as it is."""
        here, there = (
            [gz.zfs.get(f"{self.name}@{each}", "guid") for each in "ab"]
            for gz in (self.source, self.target)
        )
        marked = self.target.zfs.get(self.name, transfer.COPY)[transfer.COPY] == self.uuid
        return marked and here == there

    def spoil(self, where: emulated.EmulatedNode, kind: str, match: str, *more: str) -> None:
        words = (kind, "--match", match, "--count", "1", *more)
        where.command("fault", str(where.directory), "add", "zfs", *words)


def reached(emulated_node: emulated.EmulatedNode, **more: Any) -> node.Node:
    ssh = emulated_node.facts()["ssh"]
    return node.Node.ssh(
        ssh["host"],
        port=ssh["port"],
        user=ssh["user"],
        key_file=ssh["identity"],
        known_hosts_file=ssh["known_hosts"],
        **more,
    )


@pytest.fixture(scope="module")
def nodes() -> Iterator[tuple[emulated.EmulatedNode, emulated.EmulatedNode]]:
    with contextlib.ExitStack() as stack:
        options = ("--ssh", "127.0.0.1:0", "--speed", "20")
        here, there = (stack.enter_context(emulated.EmulatedNode(*options)) for _ in range(2))
        operators.let(here, there)
        yield here, there


@pytest.fixture
def pair(nodes: tuple[emulated.EmulatedNode, emulated.EmulatedNode]) -> Iterator[Pair]:
    pair = Pair(*nodes)
    yield pair
    for each in nodes:
        each.command("fault", str(each.directory), "clear")
    for gz in (pair.source, pair.target):
        with contextlib.suppress(errors.NotFound):
            gz.zfs.destroy(pair.name, recursive=True)
        gz.close()


def running(gz: node.Node, word: str) -> list[str]:
    """The commands on a node that have the word in them."""
    return [each.arguments for each in gz.ps.list() if word in each.arguments]


def waiting(there: emulated.EmulatedNode) -> list[list[bytes]]:
    """The scripts on a node, which a stream may not have reached yet."""
    script = str(there.directory / "root/opt/custom/bin/smartos-direct").encode()
    found = []
    for each in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = each.read_bytes().split(b"\0")
            found += [words] if script in words and b"receive" in words else []
    return found


def test_it_goes_straight_to_the_other_node(pair: Pair) -> None:
    pair.make()
    pair.moving().bring(pair.part())
    assert pair.arrived()
    assert pair.relayed == []


def test_how_far_it_has_come_is_told(pair: Pair) -> None:
    pair.make(mib=30)
    moving = pair.moving()
    moving.bring(pair.part())
    assert 0 < moving.sent_bytes < 31 * 2**20
    assert pair.relayed == []


def test_whether_it_can_is_asked(pair: Pair) -> None:
    pair.source.direct.check(pair.address)
    with not_let_in(pair), pytest.raises(errors.ToolError, match="Permission denied"):
        pair.source.direct.check(pair.address)


def test_a_filesystem_does_not_pass_for_a_disk(pair: Pair) -> None:
    pair.make()
    sent = pair.source.zfs.sending(f"{pair.name}@a")
    disk = f"{pair.name}-disk0"
    received = pair.target.zfs.receiving(disk, properties={transfer.COPY: pair.uuid})
    with (
        pytest.raises(errors.ToolError, match="its stream is not of one"),
        pair.source.direct.send(pair.address, sent, received) as stream,
    ):
        list(stream.lines())
    with pytest.raises(errors.NotFound):
        pair.target.zfs.get(disk, "type")


def test_with_a_limit_it_goes_through_here(pair: Pair) -> None:
    pair.make()
    pair.moving(mib_per_second=1000).bring(pair.part())
    assert pair.arrived()
    assert len(pair.relayed) == 2


@pytest.mark.parametrize(
    ("where", "kind", "match", "more"),
    [
        ("here", "fail", "^send -vP", ("--stderr", "cannot send: it is ill\n")),
        ("here", "truncate", "^send -vP", ("--bytes", "500000")),
        ("here", "lose-before", "^send -vP", ()),
        ("there", "fail", "^receive", ("--stderr", "cannot receive: it is ill\n")),
        ("there", "die-before", "^receive", ()),
        ("there", "die-after", "^receive", ()),
        ("there", "lose-before", "^receive", ()),
    ],
)
def test_where_it_does_not_work_it_goes_through_here(
    pair: Pair, where: str, kind: str, match: str, more: tuple[str, ...]
) -> None:
    pair.make()
    pair.spoil(getattr(pair, where), kind, match, *more)
    pair.moving().bring(pair.part())
    assert pair.arrived()
    assert pair.relayed


@contextlib.contextmanager
def not_let_in(pair: Pair) -> Iterator[None]:
    allowed = pair.there.directory / "root/usbkey/config.inc/authorized_keys"
    before = allowed.read_text()
    allowed.write_text("".join(line for line in before.splitlines(True) if "direct" not in line))
    try:
        yield
    finally:
        allowed.write_text(before)


def test_a_node_that_is_not_let_in_goes_through_here(pair: Pair) -> None:
    pair.make()
    with not_let_in(pair):
        pair.moving().bring(pair.part())
    assert pair.arrived()
    assert pair.relayed


def test_a_stream_that_stands_still_is_given_up(pair: Pair) -> None:
    pair.make()
    pair.spoil(pair.here, "hang", "^send -vP")
    pair.source.close()
    pair.source = reached(pair.here, timeouts=transport.Timeouts(stream_idle=1.0))
    pair.moving().bring(pair.part())
    assert pair.arrived()


def test_what_still_receives_is_waited_for(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    pair.make()
    pair.spoil(pair.there, "hang", "^receive")
    pair.source.close()
    pair.source = reached(pair.here, timeouts=transport.Timeouts(stream_idle=1.0))
    waited = transfer.wait_until_still
    found: list[str] = []

    def wait(target: node.Node, name: str) -> None:
        # nobody hears what it does, and it does it all the same
        found.extend(running(target, name))
        with monkeypatch.context() as short, pytest.raises(errors.InvalidState, match="still at"):
            short.setattr(transfer, "STILL_SECONDS", 0.0)
            waited(target, name)
        pair.there.command("fault", str(pair.there.directory), "clear")
        waited(target, name)
        assert not running(target, name)

    monkeypatch.setattr(transfer, "wait_until_still", wait)
    pair.moving().bring(pair.part())
    assert any("zfs receive" in each for each in found)
    assert pair.arrived()


def test_whoever_ends_it_ends_it_on_both_nodes(pair: Pair) -> None:
    pair.make()
    pair.spoil(pair.here, "hang", "^send -vP")
    moving = pair.moving()
    ended: list[BaseException] = []

    def bring() -> None:
        try:
            moving.bring(pair.part())
        except transfer.Ended as error:
            ended.append(error)

    thread = threading.Thread(target=bring)
    thread.start()
    try:
        waits.until(lambda: running(pair.source, pair.uuid), "it to begin")
        waits.until(lambda: waiting(pair.there), "it to reach the other node")
    finally:
        moving.end()
        thread.join(waits.SECONDS)
    assert [type(each) for each in ended] == [transfer.Ended]
    waits.until(lambda: not running(pair.source, pair.uuid), "its commands to end")
    waits.until(lambda: not waiting(pair.there), "those on the other node to end")
    assert pair.relayed == []
