# SPDX-License-Identifier: Apache-2.0
"""What zfs prints when it is asked for help, or asked wrongly."""

from smartos_emulator.storage import properties

# In the order of the whole help text; an empty name is an empty line.
TEXTS: tuple[tuple[str, str], ...] = (
    (
        "create",
        "\tcreate [-Pnpv] [-o property=value] ... <filesystem>\n"
        "\tcreate [-Pnpsv] [-b blocksize] [-o property=value] ... -V <size> <volume>\n",
    ),
    (
        "destroy",
        "\tdestroy [-fnpRrv] <filesystem|volume>\n"
        "\tdestroy [-dnpRrv] <filesystem|volume>@<snap>[%<snap>][,...]\n"
        "\tdestroy <filesystem|volume>#<bookmark>\n",
    ),
    ("", "\n"),
    ("snapshot", "\tsnapshot [-r] [-o property=value] ... <filesystem|volume>@<snap> ...\n"),
    ("rollback", "\trollback [-rRf] <snapshot>\n"),
    ("clone", "\tclone [-p] [-o property=value] ... <snapshot> <filesystem|volume>\n"),
    ("promote", "\tpromote <clone-filesystem>\n"),
    (
        "rename",
        "\trename [-f] <filesystem|volume|snapshot> <filesystem|volume|snapshot>\n"
        "\trename [-f] -p <filesystem|volume> <filesystem|volume>\n"
        "\trename -r <snapshot> <snapshot>\n",
    ),
    ("bookmark", "\tbookmark <snapshot> <bookmark>\n"),
    (
        "program",
        "\tprogram [-jn] [-t <instruction limit>] [-m <memory limit (b)>]\n"
        "\t    <pool> <program file> [lua args...]\n",
    ),
    ("", "\n"),
    (
        "list",
        "\tlist [-Hp] [-r|-d max] [-o property[,...]] [-s property]...\n"
        "\t    [-S property]... [-t type[,...]] [filesystem|volume|snapshot] ...\n",
    ),
    ("", "\n"),
    ("set", "\tset <property=value> ... <filesystem|volume|snapshot> ...\n"),
    (
        "get",
        '\tget [-rHp] [-d max] [-o "all" | field[,...]]\n'
        "\t    [-t type[,...]] [-s source[,...]]\n"
        '\t    <"all" | property[,...]> [filesystem|volume|snapshot|bookmark] ...\n',
    ),
    ("inherit", "\tinherit [-rS] <property> <filesystem|volume|snapshot> ...\n"),
    ("upgrade", "\tupgrade [-v]\n\tupgrade [-r] [-V version] <-a | filesystem ...>\n"),
    (
        "userspace",
        "\tuserspace [-Hinp] [-o field[,...]] [-s field] ...\n"
        "\t    [-S field] ... [-t type[,...]] <filesystem|snapshot>\n",
    ),
    (
        "groupspace",
        "\tgroupspace [-Hinp] [-o field[,...]] [-s field] ...\n"
        "\t    [-S field] ... [-t type[,...]] <filesystem|snapshot>\n",
    ),
    ("", "\n"),
    ("mount", "\tmount\n\tmount [-lvO] [-o opts] <-a | filesystem>\n"),
    ("unmount", "\tunmount [-f] <-a | filesystem|mountpoint>\n"),
    ("share", "\tshare [-l] <-a | filesystem>\n"),
    ("unshare", "\tunshare <-a | filesystem|mountpoint>\n"),
    ("", "\n"),
    (
        "send",
        "\tsend [-DnPpRvLecwhb] [-[i|I] snapshot] <snapshot>\n"
        "\tsend [-nvPLecw] [-i snapshot|bookmark] <filesystem|volume|snapshot>\n"
        "\tsend [-nvPe] -t <receive_resume_token>\n",
    ),
    (
        "receive",
        "\treceive [-vnsFhu] [-o <property>=<value>] ... [-x <property>] ...\n"
        "\t    <filesystem|volume|snapshot>\n"
        "\treceive [-vnsFhu] [-o <property>=<value>] ... [-x <property>] ... \n"
        "\t    [-d | -e] <filesystem>\n"
        "\treceive -A <filesystem|volume>\n",
    ),
    ("", "\n"),
    (
        "allow",
        "\tallow <filesystem|volume>\n"
        '\tallow [-ldug] <"everyone"|user|group>[,...] <perm|@setname>[,...]\n'
        "\t    <filesystem|volume>\n"
        "\tallow [-ld] -e <perm|@setname>[,...] <filesystem|volume>\n"
        "\tallow -c <perm|@setname>[,...] <filesystem|volume>\n"
        "\tallow -s @setname <perm|@setname>[,...] <filesystem|volume>\n",
    ),
    ("", "\n"),
    (
        "unallow",
        '\tunallow [-rldug] <"everyone"|user|group>[,...]\n'
        "\t    [<perm|@setname>[,...]] <filesystem|volume>\n"
        "\tunallow [-rld] -e [<perm|@setname>[,...]] <filesystem|volume>\n"
        "\tunallow [-r] -c [<perm|@setname>[,...]] <filesystem|volume>\n"
        "\tunallow [-r] -s @setname [<perm|@setname>[,...]] <filesystem|volume>\n",
    ),
    ("", "\n"),
    ("hold", "\thold [-r] <tag> <snapshot> ...\n"),
    ("holds", "\tholds [-rH] <snapshot> ...\n"),
    ("release", "\trelease [-r] <tag> <snapshot> ...\n"),
    ("diff", "\tdiff [-FHt] <snapshot> [snapshot|filesystem]\n"),
)
_WITH_TABLE = ("set", "get", "inherit", "list")
_POINTERS = (
    "\nFor the property list, run: zfs set|get\n"
    "\nFor the delegated permission list, run: zfs allow|unallow\n"
)
_USER_ROWS = (
    ("userused@...", " NO       NO   <size>"),
    ("groupused@...", " NO       NO   <size>"),
    ("userquota@...", "YES       NO   <size> | none"),
    ("groupquota@...", "YES       NO   <size> | none"),
    ("written@<snap>", " NO       NO   <size>"),
)


class Wrong(Exception):
    """Asked wrongly: the reason, then the help of the command, exit code 2."""

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason)
        self.reason = f"{reason}\n" if reason else ""


def names() -> frozenset[str]:
    return frozenset(name for name, _ in TEXTS if name)


def whole() -> str:
    body = "".join(text for _, text in TEXTS)
    return (
        "usage: zfs command args ...\nwhere 'command' is one of the following:\n\n"
        + body
        + "\nEach dataset is of the form: pool/[dataset/]*dataset[@name]\n"
        + _POINTERS
    )


def of(command: str) -> str:
    text = "usage:\n" + dict(TEXTS)[command]
    return text + (_table() if command in _WITH_TABLE else _POINTERS)


def _table() -> str:
    rows = sorted(properties.TABLE.values(), key=lambda row: (row.access != "readonly", row.name))
    lines = [
        "\nThe following properties are supported:\n\n\t"
        f"{'PROPERTY':<14} EDIT  INHERIT   VALUES\n\n"
    ]
    for row in rows:
        edit = " NO    " if row.access in ("readonly", "once") else "YES    "
        inherit = "  YES   " if row.access in ("inherit", "once") else "   NO   "
        lines.append(f"\t{row.name:<15} {edit}{inherit}{row.values}\n")
    lines += [f"\t{name:<15} {rest}\n" for name, rest in _USER_ROWS]
    return "".join(lines) + (
        "\nSizes are specified in bytes with standard units such as K, M, G, etc.\n"
        "\nUser-defined properties can be specified by using a name containing a colon (:).\n"
        "\nThe {user|group}{used|quota}@ properties must be appended with\n"
        "a user or group specifier of one of these forms:\n"
        '    POSIX name      (eg: "matt")\n'
        '    POSIX id        (eg: "126829")\n'
        '    SMB name@domain (eg: "matt@sun")\n'
        '    SMB SID         (eg: "S-1-234-567-89")\n'
    )
