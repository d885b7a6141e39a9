# SPDX-License-Identifier: Apache-2.0
"""Which function carries out which subcommand."""

from collections.abc import Callable

from smartos_emulator.imgadm import (
    commands,
    context,
    create,
    options,
    publish,
    remote,
    sources_command,
    update,
)

HANDLERS: dict[str, Callable[[context.Run, options.Parsed], None]] = {
    "ancestry": commands.ancestry,
    "avail": remote.avail,
    "create": create.create,
    "delete": commands.delete,
    "get": commands.get,
    "import": remote.import_image,
    "install": commands.install_image,
    "list": commands.list_images,
    "publish": publish.publish,
    "show": remote.show,
    "sources": sources_command.sources,
    "update": update.update,
    "vacuum": commands.vacuum,
}
