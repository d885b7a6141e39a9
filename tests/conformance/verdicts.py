# SPDX-License-Identifier: Apache-2.0
"""Cases that leave the node as it was: payload, firewall rule and manifest verdicts."""

import json
import re
import typing

from tests.conformance import world

Difference = world.Difference


def payloads(node: world.World, recorded: list[world.Case]) -> world.Verdict:
    """`vmadm validate ACTION BRAND`; the command line offers no validation of a receive."""
    chosen = [c for c in recorded if c["action"] != "receive" and "validate_crash" not in c]
    return world.judge_all("payloads", chosen, lambda case: _payload(node, case))


def fwrules(node: world.World, recorded: list[world.Case]) -> world.Verdict:
    """`fwadm add`: accepted or not, the complaint, the canonical text."""
    return world.judge_all("fwrules", recorded, lambda case: _rule(node, case))


def manifests(node: world.World, recorded: list[world.Case]) -> world.Verdict:
    """`imgadm install`: what it says of a manifest before it looks at the file."""
    chosen = [case for case in recorded if "minimal" in case]
    return world.judge_all("manifests", chosen, lambda case: _manifest(node, case))


def _payload(node: world.World, case: world.Case) -> Difference | None:
    label = f"{case['brand']} {case['action']}: {case['note']}"
    done = node.run("vmadm", "validate", case["action"], case["brand"], document=case["payload"])
    if case["ok"] or done.status == 0:
        if case["ok"] == (done.status == 0):
            return None
        return Difference(label, f"recorded {case['errors'] or 'VALID'}, here {done}")
    try:
        said = json.loads(done.stderr)
    except ValueError:
        return Difference(label, f"recorded {case['errors']}, here no JSON: {done.stderr[:200]}")
    wrong = [key for key, names in case["errors"].items() if not _same(said.get(key), names)]
    return Difference(label, f"{wrong}: recorded {case['errors']}, here {said}") if wrong else None


def _same(here: typing.Any, recorded: typing.Any) -> bool:
    if isinstance(recorded, list):
        return sorted(map(str, here or [])) == sorted(map(str, recorded))
    return bool(here == recorded)


def _rule(node: world.World, case: world.Case) -> Difference | None:
    label = str(case["payload"].get("rule"))
    done = node.run("fwadm", "add", "-j", document=case["payload"])
    if case["ok"] != (done.status == 0):
        return Difference(label, f"recorded {case.get('error', 'accepted')}, here {done}")
    if not case["ok"]:
        said = [error["message"] for error in json.loads(done.stderr)["errors"]]
        same = said == [case["error"]]
        return None if same else Difference(label, f"recorded {case['error']!r}, here {said}")
    canonical = [rule["rule"] for rule in json.loads(done.stdout)["rules"]]
    if "canonical" not in case or canonical == [case["canonical"]]:
        return None
    return Difference(label, f"recorded {case['canonical']!r}, here {canonical}")


def _manifest(node: world.World, case: world.Case) -> Difference | None:
    """The verdict of the two checks that `install` applies, as its complaint tells it."""
    name = f"m{case['id']}.json"
    node.write(name, json.dumps(case["manifest"]))
    node.write("nothing.gz", "")
    done = node.run("imgadm", "install", "-m", name, "-f", "nothing.gz")
    said = done.stderr.split("\n")[0]
    if not _UUID.fullmatch(str(case["manifest"].get("uuid"))):
        # `install` asserts the uuid before it looks at the rest
        return None if done.status else Difference(case["note"], f"no uuid, yet {done}")
    recorded = _complaint(case)
    same = said == recorded if recorded else not any(code in said for code in _REFUSALS)
    return None if same else Difference(case["note"], f"recorded {recorded!r}, here {done}")


_UUID = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_REFUSALS = ("(ManifestValidation)", "(InvalidManifest)")


def _complaint(case: world.Case) -> str | None:
    """How `imgadm install` refuses this manifest; None when it does not."""
    if not case["upgrade"]["ok"]:
        return _imgadm("InvalidManifest", f"manifest is invalid: {case['upgrade']['throws']}")
    undated = not case["manifest"].get("published_at")  # `install` dates it
    errors = [
        error
        for error in case["minimal"].get("errors", ())
        if not (undated and error["field"] == "published_at")
    ]
    if not errors:
        return None
    return _imgadm("ManifestValidation", f"invalid manifest: {', '.join(map(_listed, errors))}")


def _imgadm(code: str, message: str) -> str:
    return f"imgadm install: error ({code}): {message}".split("\n")[0]


def _listed(error: dict[str, str]) -> str:
    if "message" in error:
        return f"{error['field']} ({error['message']})"
    return error["field"] if error["code"] == "Invalid" else f"{error['field']} ({error['code']})"
