# SPDX-License-Identifier: Apache-2.0
"""The guests' programs about the system they run on."""

import hashlib
import re
import typing

from smartos_emulator.guest import process as process_module


def _echo(process: process_module.Process) -> int:
    words = process.argv[1:]
    end = "\n"
    if words[:1] == ["-n"]:
        words, end = words[1:], ""
    process.out(" ".join(words) + end)
    return 0


def _sleep(process: process_module.Process) -> int:
    try:
        seconds = float(process.argv[1]) if process.argv[1:] else 0
    except ValueError:
        raise process_module.Failed("bad character in argument", 2) from None
    process.node.clock.sleep(seconds)
    return 0


def _exit(process: process_module.Process) -> int:
    return int(process.argv[1]) & 0xFF if process.argv[1:] else 0


def _hostname(process: process_module.Process) -> int:
    process.out(process.node.zones.hostname(process.zone.name) + "\n")
    return 0


def _uname(process: process_module.Process) -> int:
    flags, _ = process_module.split_words(process, "asnrvmpi")
    lx = process.zone.brand in ("lx", "bhyve", "kvm")
    vm = process.vm()
    facts = {
        "s": "Linux" if lx else "SunOS",
        "n": process.node.zones.hostname(process.zone.name),
        "r": vm.get("kernel_version", "5.10.0") if lx else "5.11",
        "v": "BrandZ virtual linux" if lx else f"joyent_{process.node.config.platform}",
        "m": "x86_64" if lx else "i86pc",
        "p": "x86_64" if lx else "i386",
        "i": "x86_64" if lx else "i86pc",
    }
    wanted = set("snrvmpi") if "a" in flags else flags or {"s"}
    process.out(" ".join(facts[letter] for letter in "snrvmpi" if letter in wanted) + "\n")
    return 0


def _id(process: process_module.Process) -> int:
    process.out("uid=0(root) gid=0(root)\n")
    return 0


def _pwd(process: process_module.Process) -> int:
    process.out("/root\n" if process.zone.brand == "lx" else "/\n")
    return 0


def _true(_process: process_module.Process) -> int:
    return 0


def _false(_process: process_module.Process) -> int:
    return 1 if _process.zone.brand == "lx" else 255


def _mount(process: process_module.Process) -> int:
    """The remount that vmadm runs when a tmpfs grows; there is no tmpfs to grow."""
    words = process.argv[1:]
    if "remount" not in " ".join(words) or words[-1:] != ["/tmp"]:
        raise process_module.Failed("only a remount of /tmp is emulated")
    return 0


def _svcs(process: process_module.Process) -> int:
    services = (
        "svc:/smartdc/mdata:execute",
        "svc:/smartdc/mdata:fetch",
        "svc:/system/boot-config:default",
        "svc:/system/zoneinit:default",
        "svc:/milestone/multi-user:default",
        "svc:/network/ssh:default",
    )
    flags, wanted = process_module.split_words(process, "aHxvp")
    if "x" in flags:
        return 0
    if "H" not in flags:
        process.out("STATE          STIME    FMRI\n")
    for service in services:
        if not wanted or any(word in service for word in wanted):
            process.out(f"online         {_stime(process)} {service}\n")
    return 0


def _stime(process: process_module.Process) -> str:
    booted = process.zone.booted
    return f"{booted:%H:%M:%S}" if booted else "-"


def _svcadm(_process: process_module.Process) -> int:
    return 0


def _shutdown(process: process_module.Process) -> int:
    """shutdown, init, halt, poweroff, reboot: the zone goes down by itself."""
    words = process.argv[1:]
    again = process.name == "reboot" or "-r" in words or _init_level(words) == "6"
    if process.name == "init" and _init_level(words) not in ("0", "5", "6"):
        raise process_module.Failed("only the levels 0, 5 and 6 are emulated")
    process.node.zones.guest_shutdown(process.zone.name, again=again)
    return 0


def _init_level(words: list[str]) -> str:
    """The level that `init 6`, `shutdown -i 6` or `shutdown -i6` names."""
    text = " ".join(words)
    found = re.fullmatch("[0-9]", text) or re.search(r"-i ?([0-9])\b", text)
    return found[0][-1] if found else ""


def _test(process: process_module.Process) -> int:
    """test -e FILE"""
    words = process.argv[1:]
    if len(words) != 2 or words[0] not in ("-e", "-f"):
        raise process_module.Failed("only -e and -f are emulated", 2)
    return 0 if process.root.host(words[1]).exists() else 1


def _changepass(process: process_module.Process) -> int:
    """changepass -e: lines of USER:HASH, as SmartOS images have it."""
    if process.argv[1:] != ["-e"] or process.zone.brand != "joyent":
        raise process_module.Failed("not found", 127)
    return _set_passwords(process, lambda text: text)


def _chpasswd(process: process_module.Process) -> int:
    """chpasswd: lines of USER:PASSWORD."""
    if process.zone.brand != "lx":
        raise process_module.Failed("not found", 127)

    def hashed(text: str) -> str:
        return f"$6$nst${hashlib.sha512(text.encode('utf-8', 'surrogateescape')).hexdigest()}"

    return _set_passwords(process, hashed)


def _set_passwords(process: process_module.Process, kept: typing.Callable[[str], str]) -> int:
    """Write /etc/shadow anew; only root is known in a zone that has none."""
    path = process.root.host("/etc/shadow", write=True)
    lines = path.read_text().splitlines() if path.exists() else ["root:NP:::::::"]
    users = {line.partition(":")[0]: line for line in lines}
    for line in process.stdin.read().decode("utf-8", "surrogateescape").splitlines():
        user, colon, text = line.partition(":")
        if not colon or user not in users:
            raise process_module.Failed(f"user '{user}' does not exist")
        rest = users[user].split(":")[2:]
        users[user] = ":".join([user, kept(text), *rest])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in users.values()))
    process.charge()
    return 0


PROGRAMS: dict[str, typing.Callable[[process_module.Process], int]] = {
    "changepass": _changepass,
    "chpasswd": _chpasswd,
    "echo": _echo,
    "exit": _exit,
    "false": _false,
    "halt": _shutdown,
    "hostname": _hostname,
    "id": _id,
    "init": _shutdown,
    "mount": _mount,
    "poweroff": _shutdown,
    "pwd": _pwd,
    "reboot": _shutdown,
    "shutdown": _shutdown,
    "sleep": _sleep,
    "svcadm": _svcadm,
    "svcs": _svcs,
    "test": _test,
    "true": _true,
    "uname": _uname,
}
