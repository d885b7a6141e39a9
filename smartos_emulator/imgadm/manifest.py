# SPDX-License-Identifier: Apache-2.0
"""The rules for image manifests: what their four kinds of validation find."""

import re
from collections.abc import Callable
from typing import Any

from smartos_emulator import js
from smartos_emulator.imgadm import fault, requirements, upgrade, values

Manifest = dict[str, Any]
Errors = fault.Errors
Rule = Callable[[Manifest, str], Errors]

_NAME = re.compile(r"[A-Za-z0-9._/ -]+")
_VERSION = re.compile(r"[A-Za-z0-9._/+-]+")
_PUBLISHED = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d{3})?Z", re.ASCII)
_PROTOCOL = re.compile(r"[a-z0-9.+-]+:", re.IGNORECASE)
_MAX_URL = 1024
_MAX_NAME = 1024
_MAX_VERSION = 512
_MAX_DESCRIPTION = 10 * 1024
_MAX_BILLING_TAG = 128
_MAX_TAGS = 100 * 1024
_STATES = ("active", "unactivated", "disabled", "failed", "creating")
_TYPES = ("zone-dataset", "zvol", "lx-dataset", "docker", "other")
_SYSTEMS = ("smartos", "linux", "windows", "bsd", "illumos", "other")
_COMPRESSIONS = ("gzip", "bzip2", "xz", "none")

MINIMAL = ("v", "uuid", "name", "version", "type", "os")
FULL = (
    *("v", "uuid", "owner", "name", "version", "disabled", "activated", "published_at"),
    *("public", "state", "type", "os", "files", "nic_driver", "disk_driver", "cpu_type"),
    "image_size",
)
FIELDS = (
    *("v", "uuid", "urn", "owner", "name", "version", "description", "homepage", "eula"),
    *("disabled", "activated", "published_at", "state", "public", "type", "os", "origin"),
    *("error", "files", "icon", "acl", "requirements", "users", "billing_tags", "traits"),
    *("tags", "generate_passwords", "inherited_directories", "nic_driver", "disk_driver"),
    *("cpu_type", "image_size", "channels"),
)


def validate(manifest: Manifest, mode: str = "minimal") -> Errors:
    """The errors that the validation of `mode` (minimal, dc, public, private) finds."""
    required = MINIMAL if mode == "minimal" else FULL
    optional = (field for field in FIELDS if field not in required and field in manifest)
    errors = [error for field in (*required, *optional) for error in _RULES[field](manifest, mode)]
    return errors + [fault.invalid(field) for field in manifest if field not in FIELDS]


def boolean(value: Any) -> Any:
    """A boolean given as such or as text; undefined stays undefined, anything else throws."""
    if value is js.UNDEFINED or isinstance(value, bool):
        return value
    if value in ("true", "false"):
        return value == "true"
    raise js.JavaScriptError(values.text('invalid value for "undefined": %j', value))


def _v(manifest: Manifest, mode: str) -> Errors:
    if "v" not in manifest:
        return [fault.missing("v")]
    version = js.number(manifest["v"])
    return [] if version >= 0 else [fault.invalid("v", '"v" must be a positive integer')]


def _uuid_rule(field: str) -> Rule:
    def rule(manifest: Manifest, mode: str) -> Errors:
        if field not in manifest:
            return [fault.missing(field)]
        return [] if upgrade.is_uuid(manifest[field]) else [fault.invalid(field)]

    return rule


def _urn(manifest: Manifest, mode: str) -> Errors:
    return [] if isinstance(manifest["urn"], str) else [fault.invalid("urn")]


def _too_long(field: str, limit: int) -> dict[str, str]:
    return fault.invalid(field, f"image {field} is too long, max {limit} characters")


def _text_rule(field: str, pattern: re.Pattern[str], limit: int, allowed: str) -> Rule:
    message = f"image {field} has invalid characters (only alpha-numeric characters and {allowed})"

    def rule(manifest: Manifest, mode: str) -> Errors:
        if field not in manifest:
            return [fault.missing(field)]
        if values.longer(manifest[field], limit):
            return [_too_long(field, limit)]
        good = pattern.fullmatch(js.text(manifest[field]))
        return [] if good else [fault.invalid(field, message)]

    return rule


def _description(manifest: Manifest, mode: str) -> Errors:
    long = values.longer(manifest["description"], _MAX_DESCRIPTION)
    return [_too_long("description", _MAX_DESCRIPTION)] if long else []


def _url_rule(field: str, name: str) -> Rule:
    def rule(manifest: Manifest, mode: str) -> Errors:
        url = manifest[field]
        if not isinstance(url, str):
            kind = js.typeof(url)
            raise js.JavaScriptError(f"Parameter 'url' must be a string, not {kind}")
        protocol = _PROTOCOL.match(url.strip())
        if not protocol or protocol[0].lower() not in ("http:", "https:"):
            return [fault.invalid(field, f"invalid image {name} URL protocol")]
        if values.longer(url, _MAX_URL):
            return [
                fault.invalid(field, f"image {name} URL is too long (max {_MAX_URL} characters)")
            ]
        return []

    return rule


def _flag_rule(field: str) -> Rule:
    def rule(manifest: Manifest, mode: str) -> Errors:
        if field not in manifest:
            return [fault.missing(field)]
        boolean(manifest[field])
        return []

    return rule


def _activated(manifest: Manifest) -> bool:
    return boolean(manifest.get("activated", js.UNDEFINED)) is True


def _published_at(manifest: Manifest, mode: str) -> Errors:
    activated = _activated(manifest)
    published = manifest.get("published_at", js.UNDEFINED)
    if activated and published is js.UNDEFINED:
        return [
            fault.missing("published_at", 'if activated is "true" published_at must be present')
        ]
    if js.truthy(published) and not _PUBLISHED.fullmatch(js.text(published)):
        message = 'published_at date not in "YYYY-MM-DDTHH:MM:SS(.SSS)Z" format'
        return [fault.invalid("published_at", message)]
    return []


def _state(manifest: Manifest, mode: str) -> Errors:
    if "state" not in manifest:
        return [fault.missing("state")]
    return [] if manifest["state"] in _STATES else [fault.invalid("state")]


def _public(manifest: Manifest, mode: str) -> Errors:
    if "public" not in manifest:
        return [fault.missing("public")]
    try:
        public = boolean(manifest["public"])
    except js.JavaScriptError as error:
        return [fault.invalid("public", "%s", f"TypeError: {error}")]
    if mode == "public" and not public:
        return [fault.invalid("public", "private images are not allowed on a public Images API")]
    if mode == "private" and public:
        return [fault.invalid("public", "public images are not allowed on a private Images API")]
    return []


def _choice_rule(field: str, choices: tuple[str, ...]) -> Rule:
    def rule(manifest: Manifest, mode: str) -> Errors:
        if field not in manifest:
            return [fault.missing(field)]
        chosen = manifest[field]
        if chosen == "null":
            if manifest.get("state") in ("creating", "failed"):
                return []
            return [fault.invalid(field, f'invalid image {field}, "null"')]
        name = js.text(chosen)
        if name in choices or name in values.INHERITED:
            return []
        message = f'invalid image {field}, "%s", must be one of: {", ".join(choices)}'
        return [fault.invalid(field, message, chosen)]

    return rule


def _hvm_rule(field: str, spaces: str = " ") -> Rule:
    message = f'invalid image {field}: "%s" '
    kind = "a positive integer" if field == "image_size" else "a string"
    misplaced = f"{message}(cannot have a value{spaces}when image type is zvol)"

    def rule(manifest: Manifest, mode: str) -> Errors:
        zvol = manifest.get("type") == "zvol"
        if field not in manifest:
            return [fault.missing(field)] if zvol else []
        value = manifest[field]
        if js.truthy(value) and not zvol:
            return [fault.invalid(field, misplaced, value)]
        if field == "image_size":
            good = requirements.is_integer(js.number(value))
        else:
            good = isinstance(value, str)
        return [] if good else [fault.invalid(field, f"{message}(must be {kind})", value)]

    return rule


def _channels(manifest: Manifest, mode: str) -> Errors:
    if mode == "minimal":
        raise js.JavaScriptError("Cannot read property 'channelFromName' of undefined")
    return [
        fault.invalid("channels", "channels is invalid with an IMGAPI not configured for channels")
    ]


def _error(manifest: Manifest, mode: str) -> Errors:
    if values.is_object(manifest["error"]):
        return []
    return [fault.invalid("error", 'invalid image "error" (not an object): %j', manifest["error"])]


def _files(manifest: Manifest, mode: str) -> Errors:
    files = manifest.get("files", js.UNDEFINED)
    activated = _activated(manifest)
    if files is js.UNDEFINED:
        message = 'if activated is "true" files must be present'
        return [fault.missing("files", message)] if activated else []
    if not isinstance(files, list):
        return [fault.invalid("files", 'invalid image "files" (not an array): %s', files)]
    if len(files) > 1:
        return [fault.invalid("files", 'invalid image "files": too many files')]
    return _file(files[0]) if files else []


def _file(file: Any) -> Errors:
    names = ("sha1", "size", "compression")
    errors = [
        fault.invalid("files", f'invalid image "files": file missing "{name}" field')
        for name in names
        if not js.truthy(js.get(file, name))
    ]
    compression = js.get(file, "compression")
    if js.truthy(compression) and compression not in _COMPRESSIONS:
        message = (
            'invalid image "files": invalid compression "%s" '
            f"(must be one of {', '.join(_COMPRESSIONS)})"
        )
        errors.append(fault.invalid("files", message, compression))
    return errors


def _acl(manifest: Manifest, mode: str) -> Errors:
    acl = manifest["acl"]
    if not isinstance(acl, list):
        return [fault.invalid("acl", 'invalid image "acl" (not an array): %s', acl)]
    for index, item in enumerate(acl):
        if not upgrade.is_uuid(item):
            message = 'invalid image "acl" (item %d is not a UUID): %s'
            return [fault.invalid("acl", message, index, item)]
    return []


def _requirements(manifest: Manifest, mode: str) -> Errors:
    return requirements.validate(manifest)


def _users(manifest: Manifest, mode: str) -> Errors:
    users = manifest["users"]
    if not isinstance(users, list):
        return [fault.invalid("users", 'invalid image "users" (not an array): %j', users)]
    message = 'invalid image "users" entry: %j'
    return [fault.invalid("users", message, user) for user in users if not _is_user(user)]


def _is_user(user: Any) -> bool:
    if not values.is_object(user) or js.get(user, "name") is js.UNDEFINED:
        return False
    return len(values.keys(user)) == 1


def _billing_tags(manifest: Manifest, mode: str) -> Errors:
    tags = manifest["billing_tags"]
    if not isinstance(tags, list):
        return [
            fault.invalid("billing_tags", 'invalid image "billing_tags" (not an array): %s', tags)
        ]
    message = 'invalid image "billing_tags" entry : %s'
    return [
        fault.invalid("billing_tags", message, tag)
        for tag in tags
        if not isinstance(tag, str) or values.longer(tag, _MAX_BILLING_TAG)
    ]


def _traits(manifest: Manifest, mode: str) -> Errors:
    traits = manifest["traits"]
    if not values.is_object(traits):
        return [fault.invalid("traits", 'invalid image "traits" (not an object): %j', traits)]
    message = 'invalid image "traits" entry: (%s, %j)'
    entries = ((key, js.get(traits, key)) for key in values.keys(traits))
    return [
        fault.invalid("traits", message, key, value)
        for key, value in entries
        if not isinstance(value, (str, bool, list))
    ]


def _tags(manifest: Manifest, mode: str) -> Errors:
    tags = manifest["tags"]
    if isinstance(tags, list) or not values.is_object(tags):
        return [fault.invalid("tags", 'invalid image "tags" (not an object): %j', tags)]
    size = values.units(js.dumps(tags))
    values.keys(tags)
    if size <= _MAX_TAGS:
        return []
    message = 'image "tags" object is too big: %d characters (max %d)'
    return [fault.invalid("tags", message, size, _MAX_TAGS)]


def _inherited_directories(manifest: Manifest, mode: str) -> Errors:
    field = "inherited_directories"
    directories = manifest[field]
    if manifest.get("type") != "zone-dataset":
        message = f'invalid image "{field}" (only valid for a type:zone-dataset image): %j'
        return [fault.invalid(field, message, directories)]
    if not isinstance(directories, list):
        return [fault.invalid(field, f'invalid image "{field}" (not an array): %j', directories)]
    message = f'invalid image "{field}" entry: %j'
    return [
        fault.invalid(field, message, item) for item in directories if not isinstance(item, str)
    ]


_RULES: dict[str, Rule] = {
    "v": _v,
    "uuid": _uuid_rule("uuid"),
    "urn": _urn,
    "owner": _uuid_rule("owner"),
    "name": _text_rule("name", _NAME, _MAX_NAME, '" ", ".", "-", "_" and "/" are allowed'),
    "version": _text_rule("version", _VERSION, _MAX_VERSION, '".", "-", "_" and "/" are allowed'),
    "description": _description,
    "homepage": _url_rule("homepage", "homepage"),
    "eula": _url_rule("eula", "EULA"),
    "disabled": _flag_rule("disabled"),
    "activated": _flag_rule("activated"),
    "published_at": _published_at,
    "state": _state,
    "public": _public,
    "type": _choice_rule("type", _TYPES),
    "os": _choice_rule("os", _SYSTEMS),
    "origin": _uuid_rule("origin"),
    "error": _error,
    "files": _files,
    "icon": _flag_rule("icon"),
    "acl": _acl,
    "requirements": _requirements,
    "users": _users,
    "billing_tags": _billing_tags,
    "traits": _traits,
    "tags": _tags,
    "generate_passwords": _flag_rule("generate_passwords"),
    "inherited_directories": _inherited_directories,
    "nic_driver": _hvm_rule("nic_driver"),
    "disk_driver": _hvm_rule("disk_driver", "  "),
    "cpu_type": _hvm_rule("cpu_type"),
    "image_size": _hvm_rule("image_size"),
    "channels": _channels,
}
