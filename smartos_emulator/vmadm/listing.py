# SPDX-License-Identifier: Apache-2.0
"""vmadm list and lookup: which VMs match, in what order, and how their lines look."""

import dataclasses
import functools
import re
import typing

from smartos_emulator import js
from smartos_emulator.vmadm import failures

Vm = dict[str, typing.Any]

DEFAULT_SORT = "ram,uuid"
DEFAULT_ORDER = "uuid,type,ram,state,alias"

_ARRAYS_OF_OBJECTS = ("disks", "nics", "filesystems")
_OBJECTS = ("tags", "customer_metadata", "internal_metadata", "routes")
_ARRAYS = ("internal_metadata_namespaces", "resolvers")

# field, header (when it is not the field in capitals), width
_COLUMNS = """\
alias 10
autoboot 8
billing_id 36
boot_timestamp 24
brand 14
cpu_cap 7
cpu_shares 9 CPU_SHARE
cpu_type 8
create_timestamp 24
dns_domain 32 DOMAIN
do_not_inventory 5 DNI
docker 6
exit_status 4 EXIT
exit_timestamp 24
firewall_enabled 16
flexible_disk_size 14 FLEX_DISK_SIZE
free_space 14
hostname 32
hvm 5
image_uuid 36
indestructible_delegated 12 INDESTR_DATA
indestructible_zoneroot 12 INDESTR_ROOT
ram 7
max_locked_memory 10 MAX_LOCKED
max_lwps 7 MAX_LWP
max_physical_memory 8 MAX_PHYS
max_swap 8
owner_uuid 36
package_name 32
package_version 11 PACKAGE_VER
pid 6
qemu_extra_opts 15
quota 5
zone_state 10
state 16
tmpfs 5
type 4
uuid 36
vcpus 5
zfs_io_priority 11 IO_PRIORITY
zpool 12
zonename 12
zonepath 40
zoneid 6
"""

_DISK_KEY = re.compile(
    r"disks.[*0-9]*.(boot|image_name|image_size|image_uuid|size|media|model|zpool)$"
)
_NIC_KEY = re.compile(
    r"nics.[*0-9]*.(dhcp_server|gateway|interface|ip|mac|model|netmask|nic_tag|vlan_id)$"
)
_HASH_KEY = re.compile(r"(tags|customer_metadata|internal_metadata)\.")
_AMBIGUOUS = re.compile(r"(disks|filesystems|nics).\*")

_TYPES = {"bhyve": "BHYV", "kvm": "KVM", "lx": "LX"}
HVM = ("bhyve", "kvm")


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of the table."""

    header: str
    width: int


def _columns() -> dict[str, Column]:
    rows = (line.split() for line in _COLUMNS.splitlines())
    return {row[0]: Column(row[2] if row[2:] else row[0].upper(), int(row[1])) for row in rows}


COLUMNS = _columns()


def column(field: str) -> Column | None:
    """The column of a field, which may reach into an object: `nics.0.ip`, `tags.x`."""
    if field in COLUMNS:
        return COLUMNS[field]
    parts = field.split(".")
    reaches = (len(parts) == 3 and parts[0] in _ARRAYS_OF_OBJECTS) or (
        len(parts) == 2 and parts[0] in _OBJECTS
    )
    return Column(field.upper(), 20) if reaches else None


def with_fake_fields(vm: Vm) -> Vm:
    """A VM with the fields that exist in lists only: `type`, and `ram` for every brand."""
    fakes = {"type": _TYPES.get(vm.get("brand", ""), "OS")}
    if vm.get("brand") not in HVM:
        fakes["ram"] = vm.get("max_physical_memory", js.UNDEFINED)
    return {**vm, **fakes}


def check_keys(spec: dict[str, str], what: str) -> None:
    """Refuse a filter on something that cannot be filtered."""
    for key in spec:
        known = key in COLUMNS or _DISK_KEY.match(key) or _NIC_KEY.search(key)
        if not known and not _HASH_KEY.match(key):
            raise failures.VmError(f'Invalid {what} key: "{key}"')


def flatten(vm: Vm, key: str) -> typing.Any:
    """The value that a dotted key names."""
    first, *rest = key.split(".")
    if len(rest) == 2 and first in _ARRAYS_OF_OBJECTS:
        element = _element(vm.get(first, []), rest[0])
        return element.get(rest[1], js.UNDEFINED) if element is not js.UNDEFINED else element
    if len(rest) == 1 and first in _OBJECTS:
        return vm.get(first, {}).get(rest[0], js.UNDEFINED)
    if len(rest) == 1 and first in _ARRAYS:
        return _element(vm.get(first, []), rest[0])
    return vm.get(key, js.UNDEFINED)


def _element(array: list[typing.Any], index: str) -> typing.Any:
    inside = re.fullmatch(r"0|[1-9]\d*", index) and int(index) < len(array)
    return array[int(index)] if inside else js.UNDEFINED


def matches(vm: Vm, spec: dict[str, str]) -> bool:
    """Whether a VM meets every condition: equality of texts, or `~` and a regular expression."""
    return all(_meets(vm, key, target) for key, target in spec.items())


def matches_with_fakes(vm: Vm, spec: dict[str, str]) -> bool:
    """As `matches`, for a VM that still lacks the fields that exist in lists only."""
    return matches(with_fake_fields(vm), spec)


def _meets(vm: Vm, key: str, target: str) -> bool:
    first, *rest = key.split(".")
    if len(rest) == 2 and rest[0] == "*" and first in vm and first in _ARRAYS_OF_OBJECTS:
        keys = [f"{first}.{index}.{rest[1]}" for index in range(len(vm[first]))]
    else:
        keys = [key]
    return any(_equals(flatten(vm, one), one, target) for one in keys)


def _equals(value: typing.Any, key: str, target: str) -> bool:
    if value is js.UNDEFINED:
        return False
    text = js.text(value)
    if target.startswith("~"):
        return bool(_pattern(target[1:]).search(text))
    return text == (_fixed_mac(target) if re.match(r"nics\..*\.mac$", key) else target)


@functools.lru_cache
def _pattern(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text, re.IGNORECASE)
    except re.error as error:
        raise js.JavaScriptError(
            f"SyntaxError: Invalid regular expression: /{text}/: {error.msg}"
        ) from None


def _fixed_mac(mac: str) -> str:
    return ":".join(f"{int(part, 16):02x}" if _is_hex(part) else "00" for part in mac.split(":"))


def _is_hex(text: str) -> bool:
    return bool(re.fullmatch("[0-9a-fA-F]+", text))


def table(
    vms: list[Vm], spec: dict[str, str], order: str, sort: str, parsable: bool, header: bool
) -> str:
    """The lines of `vmadm list`."""
    found = [vm for vm in map(with_fake_fields, vms) if matches(vm, spec)]
    for field in sort.split(","):
        _need(field.removeprefix(field[0]) if field[:1] in ("+", "-") else field, "sort", field)
    for field in order.split(","):
        _need(field, "order", field)
    # The real one keeps only what it prints or filters by: a sort by anything else has no effect.
    kept = {field.split(".")[0] for field in order.split(",")}
    found = [{key: vm[key] for key in vm if key in kept} for vm in found]
    found.sort(key=functools.cmp_to_key(functools.partial(_compare, fields=sort.split(","))))
    lines = [_line(order, None, parsable)] if header else []
    return "".join(lines + [_line(order, vm, parsable) for vm in found if vm])


def check(spec: dict[str, str], order: str, sort: str) -> None:
    """Refuse what makes no sense before any VM is looked at."""
    check_keys(spec, "filter")
    _check_ambiguous(order, "order")
    _check_ambiguous(sort, "sort")


def _check_ambiguous(fields: str, what: str) -> None:
    for field in fields.split(","):
        if _AMBIGUOUS.match(field):
            raise failures.VmError(f'Invalid {what} key: "{field}"')


def _need(name: str, what: str, shown: str) -> None:
    if column(name) is None:
        raise failures.VmError(f"invalid {what} field: {shown}")


def _line(order: str, vm: Vm | None, parsable: bool) -> str:
    cells = []
    for field in order.split(","):
        shape = typing.cast(Column, column(field))
        value = shape.header if vm is None else _cell(flatten(vm, field), parsable)
        cells.append(value if parsable else value.ljust(shape.width))
    return (":" if parsable else "  ").join(cells).rstrip() + "\n"


def _cell(value: typing.Any, parsable: bool) -> str:
    if js.truthy(value) or (value == 0 and not isinstance(value, bool)):
        return js.text(value)
    return "" if parsable else "-"


def _compare(left: Vm, right: Vm, fields: list[str]) -> int:
    for field in fields:
        direction = -1 if field.startswith("-") else 1
        name = field[1:] if field[:1] in ("+", "-") else field
        order = _ordered(flatten(left, name), flatten(right, name))
        if order:
            return order * direction
    return 0


def _ordered(left: typing.Any, right: typing.Any) -> int:
    """vmadm's own idea of an order: what is missing comes last."""
    if js.less(right, left) or (not js.truthy(left) and js.truthy(right)):
        return 1
    if js.less(left, right) or (js.truthy(left) and not js.truthy(right)):
        return -1
    missing = (left is js.UNDEFINED) - (right is js.UNDEFINED)
    return missing
