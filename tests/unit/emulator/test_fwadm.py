# SPDX-License-Identifier: Apache-2.0
"""fwadm as a tool: streams, exit statuses, and what its rules do to the VMs they affect."""

import dataclasses
import io
import json
import pathlib
import re

import pytest

from smartos_emulator import call as call_module
from smartos_emulator import clock, fwadm
from smartos_emulator.tools import fwadm as tool
from smartos_emulator.vmadm import failures

OWNER = "0d7a6c1e-6a0f-4b8e-8f59-1f9b8c2d3e4f"
WEB = "11111111-aaaa-4bbb-8ccc-000000000001"
DB = "11111111-aaaa-4bbb-8ccc-000000000002"
FAR = "11111111-aaaa-4bbb-8ccc-000000000003"
RULE = "22222222-aaaa-4bbb-8ccc-000000000001"


def vm(uuid, ip, **properties):
    return {
        "uuid": uuid,
        "nics": [{"ips": [f"{ip}/24"]}],
        "tags": {},
        "state": "running",
        "zonepath": f"/zones/{uuid}",
        "owner_uuid": OWNER,
        **properties,
    }


@dataclasses.dataclass
class Result:
    status: int
    out: str
    err: str


class Vms:
    def __init__(self, node, records):
        self._node = node
        self._records = records

    def all(self):
        return self._records

    seen = all

    def get(self, uuid):
        return next((record for record in self._records if record["uuid"] == uuid), None)

    def update_firewall(self, uuid, enabled):
        record = self.get(uuid)
        if record is None:
            raise failures.not_found(uuid)
        record["firewall_enabled"] = enabled
        if enabled:
            self._node.firewall.enable(record, self._records)
        else:
            self._node.firewall.disable(record)


class Node:
    """As much of a node as the firewall touches."""

    def __init__(self, root, *records):
        self.root = root
        self.clock = clock.Clock(1.0)
        self.firewall = fwadm.Firewall(self)
        self.vms = Vms(self, list(records))
        for record in records:
            (self.path(record["zonepath"]) / "config").mkdir(parents=True)

    def path(self, node_path):
        return self.root / node_path.lstrip("/")

    def host_path(self, path):
        return pathlib.Path(path)

    def fwadm(self, *words, payload=None, tty=False):
        text = payload if isinstance(payload, str) else json.dumps(payload)
        stdin = io.BytesIO(b"" if payload is None else text.encode())
        stdin.isatty = lambda: tty
        out, err = io.BytesIO(), io.BytesIO()
        call = call_module.Call(["fwadm", *words], self, {}, str(self.root), stdin, out, err)
        status = call.serve(tool.main)
        return Result(status, out.getvalue().decode(), err.getvalue().decode())

    def add(self, rule, **properties):
        """Add a rule, enabled and global unless told otherwise."""
        document = {"rule": rule, "uuid": RULE, "enabled": True, "global": True, **properties}
        done = self.fwadm("add", "-j", payload=document)
        assert done.status == 0, done
        return json.loads(done.out)

    def ipf(self, uuid, name="ipf.conf"):
        """The lines of rules in a VM's file."""
        text = (self.path(f"/zones/{uuid}/config") / name).read_text().split("# fwadm fallbacks")[0]
        return [line for line in text.splitlines() if line and not line.startswith("#")]


@pytest.fixture
def node(tmp_path):
    return Node(
        tmp_path,
        vm(WEB, "10.0.0.1", tags={"role": "web", "n": 5}, firewall_enabled=True),
        vm(DB, "10.0.0.2", tags={"role": "db"}, firewall_enabled=True, state="stopped"),
    )


def test_add_prints_the_rule(node):
    done = node.fwadm(
        "add",
        payload={
            "uuid": RULE,
            "rule": "from any to tag role = web allow tcp port 80",
            "owner_uuid": OWNER,
        },
    )
    line = f'{RULE} false   FROM any TO tag "role" = "web" ALLOW tcp PORT 80'
    assert done == Result(0, f"Added rules:\n{line}\n", "")
    stored = json.loads((node.path("/var/fw/rules") / f"{RULE}.json").read_text())
    assert stored["owner_uuid"] == OWNER
    assert re.fullmatch(r"\d{13}\.\d{6}", stored["version"])


def test_add_from_the_command_line_and_list(node):
    words = ["FROM", "any", "TO", "all", "vms", "ALLOW", "tcp", "PORTS", "1-5,", "8"]
    assert node.fwadm("add", "-e", "-g", "--desc", "ignored", *words).status == 0
    node.add("FROM any TO all vms ALLOW ah", enabled=False)
    table = node.fwadm("list").out.splitlines()
    assert table[0] == "UUID".ljust(37) + "ENABLED " + "RULE".ljust(44)
    assert f"{RULE} -       FROM any TO all vms ALLOW ah".ljust(89) in table
    shown = node.fwadm("list", "-p", "-d,", "-o", "enabled,rule,owner_uuid").out.splitlines()
    assert "true,FROM any TO all vms ALLOW tcp PORTS 1 - 5\\, 8,-" in shown
    assert {rule["global"] for rule in json.loads(node.fwadm("list", "-j").out)} == {True}
    assert not any("description" in rule for rule in json.loads(node.fwadm("list", "-j").out))


def test_add_from_a_file(node, tmp_path):
    document = {"rule": "FROM any TO all vms ALLOW ah", "global": True}
    file = tmp_path / "rule.json"
    file.write_text(json.dumps(document))
    assert node.fwadm("add", "-f", str(file)).status == 0
    done = node.fwadm("add", "-f", "/none/such")
    assert done == Result(1, "", 'File "/none/such" does not exist.\n')
    assert node.fwadm("update", RULE, "-f", "/none/such").status == 2


def test_every_wrong_rule_is_reported(node):
    bad = {"rules": [{"rule": "x", "global": True}, {"rule": "FROM any TO all vms ALLOW ah"}]}
    done = node.fwadm("add", payload=bad)
    assert (done.status, done.out) == (1, "")
    assert done.err.splitlines()[1:] == ["owner_uuid required"]
    messages = json.loads(node.fwadm("add", "-j", payload=bad).err)["errors"]
    assert messages[1] == {"message": "owner_uuid required"}
    assert node.fwadm("list").out == ""


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("{bad", "undefined:1\n{bad\n ^\nSyntaxError: Unexpected token b\n"),
        ('{"a":\n\t"b" 5', 'undefined:2\n\t"b" 5\n\t    ^\nSyntaxError: Unexpected number\n'),
        ("", "undefined:1\n\n^\nSyntaxError: Unexpected end of input\n"),
    ],
)
def test_bad_json_crashes(node, text, shown):
    done = node.fwadm("add", payload=text)
    assert (done.status, done.out) == (8, "")
    assert done.err.startswith(f"\n{shown}    at Object.parse (native)\n")


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        ([], "Payload must contain one of: rules, localVMs, remoteVMs"),
        ({"rules": "x"}, "opts.rules ([object]) is required"),
        (5, "opts (object) is required"),
        ({"localVMs": [{"uuid": FAR}]}, f'Could not find VM "{FAR}" in VM list'),
    ],
)
def test_odd_payloads(node, payload, message):
    assert node.fwadm("add", payload=payload) == Result(1, "", f"{message}\n")


def test_rules_become_ipf_lines(node):
    made = node.add("FROM tag role = web TO tag role = db ALLOW tcp PORTS 1-2, 9")
    assert made["vms"] == [DB, WEB]
    tag = f" keep frags keep state set-tag(uuid={RULE})"
    assert node.ipf(DB) == [
        f"pass in quick proto tcp from 10.0.0.1 to any port 1 : 2{tag}",
        f"pass in quick proto tcp from 10.0.0.1 to any port = 9{tag}",
    ]
    assert node.ipf(WEB) == []
    assert node.ipf(DB, "ipf6.conf") == []


def test_blocks_win_outbound_and_allows_inbound(node):
    ports = [("ALLOW", 3), ("BLOCK", 2), ("ALLOW", 1)]
    for action, port in ports:
        rule = f"FROM any TO all vms {action} tcp PORT {port} PRIORITY 5"
        node.add(rule, uuid=RULE[:-1] + str(port + 5))
    node.add("FROM all vms TO subnet 10.9.0.0/16 BLOCK tcp PORT all")
    actions = [" ".join(line.split()[:2]) for line in node.ipf(WEB)]
    assert actions == ["block out", "pass in", "pass in", "block in"]
    assert "port = 1 " in node.ipf(WEB)[1]


def test_owned_rules_affect_the_owners_vms(node):
    stranger = "99999999-6a0f-4b8e-8f59-1f9b8c2d3e4f"
    node.vms.get(DB)["owner_uuid"] = stranger
    node.fwadm(
        "add", payload={"rule": "FROM any TO all vms ALLOW ah", "uuid": RULE, "owner_uuid": OWNER}
    )
    assert node.fwadm("vms", RULE).out == f"{WEB}\n"
    assert node.fwadm("rules", DB).out == ""
    assert RULE in node.fwadm("rules", WEB).out


def test_tag_values_match_as_text(node):
    node.add("FROM any TO tag n = 5 ALLOW ah")
    assert json.loads(node.fwadm("vms", "-j", RULE).out) == [WEB]


def test_vms_lists_only_enabled_firewalls(node):
    node.vms.update_firewall(DB, False)
    node.add("FROM any TO all vms ALLOW ah")
    assert node.fwadm("vms", RULE).out == f"{WEB}\n"


def test_get(node):
    node.add("FROM any TO all vms ALLOW ah")
    assert json.loads(node.fwadm("get", RULE).out)["uuid"] == RULE
    assert node.fwadm("get", FAR) == Result(1, "", f'Unknown rule "{FAR}"\n')
    said = json.loads(node.fwadm("get", "-j", FAR).err)
    assert said == {"errors": [{"message": f'Unknown rule "{FAR}"', "code": "ENOENT"}]}
    assert node.fwadm("get") == Result(1, "", "Error: missing UUID\n")
    assert node.fwadm("get", "x") == Result(1, "", 'Error: invalid UUID "x"\n')


def test_update_and_switch(node):
    node.add("FROM any TO all vms ALLOW tcp PORT 1")
    done = node.fwadm("update", RULE, "FROM", "any", "TO", "all", "vms", "ALLOW", "ah")
    assert done.out == f"Updated rules:\n{RULE} true    FROM any TO all vms ALLOW ah\n"
    assert node.fwadm("disable", RULE).out.startswith(f"Disabled rules:\n{RULE} false   FROM")
    assert node.ipf(WEB) == []
    assert node.fwadm("enable", RULE).out.startswith(f"Enabled rules:\n{RULE} true    FROM")
    assert len(node.ipf(WEB)) == 1


def test_update_changes_the_owner(node):
    node.add("FROM any TO all vms ALLOW ah")
    node.fwadm("update", payload={"uuid": RULE, "owner_uuid": OWNER})
    stored = json.loads(node.fwadm("get", RULE).out)
    assert stored["owner_uuid"] == OWNER
    assert "global" not in stored


def test_update_of_an_unknown_rule(node):
    done = node.fwadm("update", payload={"rules": [{"rule": "x"}, {"uuid": RULE}]})
    assert done.status == 1
    assert done.err == f'Missing UUID of rule: {{"rule":"x"}}\nUnknown rule: {RULE}\n'


def test_delete(node):
    node.add("FROM any TO all vms ALLOW ah")
    assert node.fwadm("delete", RULE).out.startswith(f"Deleted rules:\n{RULE} true    FROM")
    assert node.ipf(WEB) == []
    assert node.fwadm("delete", RULE) == Result(0, "\n", "")
    assert node.fwadm("delete") == Result(0, "", "Must specify rules to delete!\n")


def test_dryrun_changes_nothing(node):
    words = ["FROM", "any", "TO", "all", "vms", "ALLOW", "ah"]
    done = node.fwadm("add", "--dryrun", "--stdout", "-v", "-g", "-e", *words)
    assert done.out.startswith(f"=== /zones/{WEB}/config/ipf.conf\n# DO NOT EDIT")
    assert done.out.endswith(f"\n\nVMs affected:\n{WEB}\n{DB}\n")
    assert node.fwadm("list").out == ""
    assert not (node.path(f"/zones/{WEB}/config") / "ipf.conf").exists()


def test_remote_vms(node):
    node.add("FROM tag role = far TO all vms ALLOW ah")
    remote = {"uuid": FAR, "nics": [{"ip": "10.0.0.9"}], "tags": {"role": "far"}}
    assert node.fwadm("add-rvm", payload=remote).out == f"Added remote VMs:\n{FAR}\n"
    assert node.ipf(WEB)[0].startswith("pass in quick proto ah from 10.0.0.9 to any")
    kept = {"uuid": FAR, "ips": ["10.0.0.9"], "tags": {"role": "far"}}
    assert json.loads(node.fwadm("get-rvm", FAR).out) == kept
    assert json.loads(node.fwadm("list-rvms").out) == [kept]
    assert RULE in node.fwadm("rvm-rules", FAR).out
    assert node.fwadm("delete-rvm", FAR).out == f"Deleted remote VMs:\n{FAR}\n"
    assert node.ipf(WEB) == []
    assert node.fwadm("get-rvm", FAR).err == f'Unknown remote VM "{FAR}"\n'


@pytest.mark.parametrize(
    ("remote", "message"),
    [
        ({}, "Remote VM must have UUID"),
        ({"uuid": "x"}, "Invalid Remote VM UUID: x"),
        ({"uuid": FAR}, f'Remote VM "{FAR}": missing IPs'),
        ({"uuid": FAR, "ips": ["no"]}, "Invalid IP address: no"),
        (
            {"uuid": WEB, "ips": ["10.0.0.1"]},
            f'Remote VM "{WEB}" must not have the same UUID as a local VM',
        ),
    ],
)
def test_wrong_remote_vms(node, remote, message):
    assert node.fwadm("add-rvm", payload=remote) == Result(1, "", f"{message}\n")


def test_start_stop_and_status(node):
    assert node.fwadm("start", WEB).out == f"Firewall started for VM {WEB}\n"
    assert node.fwadm("status", WEB).out == "running\n"
    assert "running: true\n" in node.fwadm("status", "-v", WEB).out
    assert "0 block in all\n" in node.fwadm("stats", WEB).out
    assert json.loads(node.fwadm("stop", "-j", WEB).out) == {"result": "success"}
    assert node.fwadm("status", WEB).out == "stopped\n"
    done = node.fwadm("stats", WEB)
    assert done == Result(1, "", f'Firewall is not running for VM "{WEB}"\n')
    assert json.loads(node.fwadm("status", "-j", DB).out) == {"running": False}
    assert node.fwadm("start", FAR) == Result(1, "", f"VM {FAR} not found\n")


def test_a_new_vm_reaches_the_others_files(node):
    node.add("FROM tag role = cache TO all vms ALLOW ah")
    new = vm(FAR, "10.0.0.7", tags={"role": "cache"}, state="provisioning")
    (node.path(new["zonepath"]) / "config").mkdir(parents=True)
    node.firewall.vm_created(new, None, node.vms.all())
    assert "from 10.0.0.7 to any" in node.ipf(WEB)[0]
    moved = {**new, "nics": [{"ips": ["10.0.0.8/24"]}]}
    node.firewall.vm_changed(new, moved, node.vms.all())
    assert "from 10.0.0.8 to any" in node.ipf(WEB)[0]


def test_vmadm_switches_a_firewall(node):
    node.add("FROM any TO all vms ALLOW ah")
    before = node.vms.get(WEB)
    config = node.path(f"/zones/{WEB}/config")
    after = {**before, "firewall_enabled": False}
    node.firewall.vm_changed(before, after, node.vms.all())
    assert sorted(file.name for file in config.iterdir()) == ["ipf.conf.old", "ipf6.conf.old"]
    node.firewall.vm_changed(after, before, node.vms.all())
    assert (config / "ipf.conf").exists()
    gone = {**after, "zonepath": "/zones/nowhere"}
    with pytest.raises(failures.VmError, match="Error enabling firewall for VM: ENOENT, open"):
        node.firewall.vm_changed(gone, {**gone, "firewall_enabled": True}, node.vms.all())


def test_usage_errors(node):
    assert node.fwadm("list", "-d", ",") == Result(
        2,
        "",
        "-d requires -p\n\nusage:\n    fwadm list [OPTIONS] -p [-d <char>]\n"
        "    fwadm list [OPTIONS] -j\n",
    )
    done = node.fwadm("get", "-Z")
    assert done.status == 2
    assert done.err == (
        'unknown option: "-Z"\n\n'
        "usage: fwadm get [ --help | -h ] [ --dryrun ] [ --json | -j ] [ --stdout ]\n"
        "    [ --verbose | -v ] ...\n"
    )
    assert node.fwadm("lst").err == 'unknown command: "lst"\n\nDid you mean this?\n    list\n'
    assert node.fwadm("add", tty=True) == Result(1, "", "Must supply file!\n\n\n")
    assert node.fwadm("enable").status == 2
    assert node.fwadm("list", "-o", "colour") == Result(1, "", "Invalid display field: colour\n")


def test_help(node):
    done = node.fwadm("-h")
    assert done.status == 0
    assert "    delete-rvm      Delete a remote VM.\n" in done.out
    assert node.fwadm() == Result(2, done.out, "no command given\n")
    assert node.fwadm("help", "vms").out == node.fwadm("vms", "-h").out
    assert node.fwadm("vms", "-h").out.startswith(
        "List the UUIDs of VMs affected by a rule.\n\nUsage:\n"
        "    fwadm vms [OPTIONS] <rule uuid>\n\nOptions:\n"
        "    -h, --help      Print help and exit.\n"
    )
