# SPDX-License-Identifier: Apache-2.0
"""What imgadm keeps below /var/imgadm: one file an installed image, and its configuration."""

import pathlib
import re
import threading
from typing import TYPE_CHECKING, Any

from smartos_emulator import js
from smartos_emulator.imgadm import errors

if TYPE_CHECKING:
    from smartos_emulator import node as node_module

CONFIG_PATH = "/var/imgadm/imgadm.conf"
DEFAULT_SOURCE = {"type": "imgapi", "url": "https://images.smartos.org"}

Info = dict[str, Any]


class Database:
    """The image data base. ZFS, not this, decides what is installed."""

    def __init__(self, node: "node_module.Node") -> None:
        self._directory: pathlib.Path = node.path("/var/imgadm/images")

    def load(self, pool: str, uuid: str) -> Info:
        """What is known of an image: at least its UUID and pool."""
        name = f"{pool}-{uuid}.json"
        try:
            document = (self._directory / name).read_text("utf-8", "replace")
        except (OSError, ValueError):  # there is none, or no file can have such a name
            return {"manifest": {"uuid": uuid}, "zpool": pool}
        try:
            info = js.loads(document)
        except js.JavaScriptError:
            raise errors.abort("Cannot read property 'manifest' of null") from None
        if js.get(js.get(info, "manifest"), "uuid") != uuid:
            path = f"/var/imgadm/images/{name}"
            raise errors.abort(f'UUID for image in "{path}" is wrong', "AssertionError")
        return dict(info)

    def save(self, pool: str, manifest: dict[str, Any], source: str | None = None) -> None:
        """Remember an image and where it came from."""
        info: Info = {"manifest": manifest, "zpool": pool}
        if source is not None:
            info["source"] = source
        write(self._directory / f"{pool}-{manifest['uuid']}.json", js.dumps(info, 2) + "\n")

    def delete(self, pool: str, uuid: str) -> None:
        """Forget an image, if it is known."""
        (self._directory / f"{pool}-{uuid}.json").unlink(missing_ok=True)


class Config:
    """/var/imgadm/imgadm.conf: the sources, when they are not the default one."""

    def __init__(self, node: "node_module.Node") -> None:
        self._path: pathlib.Path = node.path(CONFIG_PATH)

    def load(self) -> dict[str, Any]:
        """The configuration, brought to the present version first."""
        config: dict[str, Any] = {"dockerImportSkipUuids": True}
        if self._path.exists():
            try:
                config.update(js.loads(self._path.read_text("utf-8", "replace")))
            except js.JavaScriptError as error:
                message = f'config file "{CONFIG_PATH}" is not valid JSON'
                raise errors.ImgadmError("ConfigError", message, cause=str(error)) from None
        if config.get("upgradedToVer", "1.0.0") < "3.0.0":
            for source in config.get("sources", []):
                old = re.search(r"/datasets/?$", source["url"])
                source.setdefault("type", "dsapi" if old else "imgapi")
            config["upgradedToVer"] = "3.0.0"
            self.save(config)
        return config

    def save(self, config: dict[str, Any]) -> None:
        write(self._path, js.dumps(config, 2))


def write(path: pathlib.Path, document: str) -> None:
    """Replace a file in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{threading.get_ident()}")
    temporary.write_text(document, "utf-8", "surrogatepass")
    temporary.replace(path)
