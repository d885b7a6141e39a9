# SPDX-License-Identifier: Apache-2.0
"""fwadm: firewall rules of the node. With -j, errors are JSON on stderr."""

import builtins
import dataclasses
import json
from collections.abc import Iterable, Mapping
from typing import Any

from nova_smartos.smartos import _tool, errors, records, transport
from nova_smartos.smartos._tool import text
from nova_smartos.smartos.records import key

TEXTS = (
    text(r"Unknown rule:? ", errors.NotFound, "RuleNotFound"),
    text(r"Unknown remote VM ", errors.NotFound, "RemoteVmNotFound"),
    text(r'VM "\S+" not found|VM \S+ not found', errors.NotFound, "VmNotFound"),
    text(r"bad statusCode: 404", errors.NotFound, "VmNotFound"),
    text(r"Could not find VM ", errors.NotFound, "VmNotFound"),
    text(r"Firewall is not running for VM ", errors.InvalidState, "FirewallStopped"),
    text(r"Could not find running zone", errors.InvalidState, "FirewallStopped"),
    *_tool.SPACE,
    text(r"connect ECONNREFUSED", errors.ToolError, "VminfodDown"),
    text(r"owner_uuid required", errors.InvalidPayload, "Owner"),
    text(r"cannot specify both global and owner_uuid", errors.InvalidPayload, "Owner"),
    text(r"rule does not affect VMs|No VMs found that match rule", errors.InvalidPayload, "Rule"),
    text(r"Error at character |Lexical error|No rule specified", errors.InvalidPayload, "Rule"),
    text(r"maximum of \d+ |The end of the range |rule affects ICMP", errors.InvalidPayload, "Rule"),
    text(r".* is invalid(?: \(.*\))?$", errors.InvalidPayload, "Rule"),
    text(r"[Ee]rror: (?:missing|invalid) UUID|Missing UUID of", errors.InvalidPayload, "Uuid"),
    text(r"\w+ must be |Payload must contain ", errors.InvalidPayload, "Payload"),
    text(r"Invalid display field", errors.InvalidPayload, "Usage"),
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Rule(records.Record):
    """A rule; `rule` is its canonical text, not the one that was given."""

    uuid: str
    rule: str
    enabled: bool = False
    created_by: str | None = None
    description: str | None = None
    global_: bool = key("global", False)
    log: bool = False
    owner_uuid: str | None = None
    version: str | None = None


@dataclasses.dataclass(frozen=True)
class Changed(records.Record):
    """The rules that a command made, changed or deleted, and the VMs that they affect."""

    rules: tuple[Rule, ...] = ()
    vms: tuple[str, ...] = ()
    remote_vms: tuple[Any, ...] = key("remoteVMs", ())


@dataclasses.dataclass(frozen=True)
class Hits(records.Record):
    """How often a line of a VM's packet filter was met."""

    hits: int = key("hits", convert=int)
    rule: str = ""


class Fwadm(_tool.Tool):
    """fwadm(8)."""

    name = "fwadm"
    texts = TEXTS

    def add(self, rules: Iterable[Mapping[str, Any]]) -> Changed:
        """fwadm add -j < {"rules": […]}"""
        return self._apply("add", "-j", stdin=self._document({"rules": list(rules)}))

    def add_remote_vms(self, vms: Iterable[Mapping[str, Any]]) -> Changed:
        """fwadm add-rvm -j < {"remoteVMs": […]}"""
        return self._apply("add-rvm", "-j", stdin=self._document({"remoteVMs": list(vms)}))

    def delete(self, *uuids: str) -> Changed:
        """fwadm delete -j UUID …: deleting a rule that is not there is success."""
        return self._apply("delete", "-j", *self._uuids(uuids))

    def delete_remote_vms(self, *uuids: str) -> Changed:
        """fwadm delete-rvm -j UUID …"""
        return self._apply("delete-rvm", "-j", *self._uuids(uuids))

    def disable(self, *uuids: str) -> Changed:
        """fwadm disable -j RULE …"""
        return self._apply("disable", "-j", *self._uuids(uuids))

    def enable(self, *uuids: str) -> Changed:
        """fwadm enable -j RULE …"""
        return self._apply("enable", "-j", *self._uuids(uuids))

    def get(self, uuid: str) -> Rule:
        """fwadm get -j RULE"""
        return self._read(_rule, "get", "-j", self._uuid(uuid))

    def list(self) -> builtins.list[Rule]:
        """fwadm list -j"""
        return self._read(_rules, "list", "-j")

    def remote_vms(self) -> builtins.list[dict[str, Any]]:
        """fwadm list-rvms -j"""
        return self._read(records.array, "list-rvms", "-j")

    def rules(self, vm_uuid: str) -> builtins.list[Rule]:
        """fwadm rules -j VM: [] for a VM that is not there."""
        return self._read(_rules, "rules", "-j", self._uuid(vm_uuid))

    def start(self, vm_uuid: str) -> None:
        """fwadm start -j VM: the same as vmadm update with firewall_enabled."""
        self._change("start", "-j", self._uuid(vm_uuid))

    def stats(self, vm_uuid: str) -> builtins.list[Hits]:
        """fwadm stats -j VM: InvalidState when its firewall does not run."""
        return self._read(_hits, "stats", "-j", self._uuid(vm_uuid))

    def status(self, vm_uuid: str) -> bool:
        """fwadm status -j VM: whether its firewall runs."""
        return self._read(_running, "status", "-j", self._uuid(vm_uuid))

    def stop(self, vm_uuid: str) -> None:
        """fwadm stop -j VM"""
        self._change("stop", "-j", self._uuid(vm_uuid))

    def update(self, rules: Iterable[Mapping[str, Any]]) -> Changed:
        """fwadm update -j < {"rules": […]}: each with its uuid."""
        return self._apply("update", "-j", stdin=self._document({"rules": list(rules)}))

    def vms(self, rule_uuid: str) -> builtins.list[str]:
        """fwadm vms -j RULE: the VMs that it affects."""
        return self._read(_uuids, "vms", "-j", self._uuid(rule_uuid))

    def _apply(self, *arguments: str, stdin: bytes = b"") -> Changed:
        return self._parsed(_changed, self._change(*arguments, stdin=stdin))

    def _failure(self, result: transport.Result) -> errors.ToolError:
        plain = dataclasses.replace(result, stderr=_messages(result.stderr))
        error = super()._failure(plain)
        if result.returncode == 2 and not error.code:
            return errors.InvalidPayload.from_result(plain, code="Usage")
        return error

    def _uuids(self, uuids: Iterable[str]) -> builtins.list[str]:
        found = [self._uuid(uuid) for uuid in uuids]
        if not found:
            raise self._refused("no uuid is given")
        return found


def _changed(output: str) -> Changed:
    return Changed.from_json(records.object_(output))


def _hits(output: str) -> list[Hits]:
    return [Hits.from_json(each) for each in records.array(output)]


def _messages(stderr: str) -> str:
    """The messages of fwadm's JSON, one a line; any other text as it is."""
    try:
        listed = json.loads(stderr)["errors"]
        # a message quotes rules: only its beginning is fwadm's own word
        return "\n".join(" ".join(each["message"].splitlines()) for each in listed)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return stderr


def _rule(output: str) -> Rule:
    return Rule.from_json(records.object_(output))


def _rules(output: str) -> list[Rule]:
    return [Rule.from_json(each) for each in records.array(output)]


def _running(output: str) -> bool:
    found = records.object_(output).get("running")
    if found in (True, "true"):
        return True
    if found in (False, "false"):
        return False
    raise errors.OutputError(f"no word of running: {records.excerpt(output)}")


def _uuids(output: str) -> list[str]:
    return records.texts(records.array(output))
