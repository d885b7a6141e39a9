# SPDX-License-Identifier: Apache-2.0
"""hostname(1): the node's name; a new one lasts until the next boot."""

from smartos_emulator import call as call_module

_USAGE = "usage: hostname [-s] [system_name]\n"


def main(call: call_module.Call) -> int:
    """hostname [-s] [NAME]"""
    words = call.argv[1:]
    short = words[:1] == ["-s"]
    words = words[1:] if short else words
    if len(words) > 1 or any(word.startswith("-") for word in words):
        raise call_module.Exit(1, _USAGE)
    if words:
        call.node.network.hostname = words[0]
        return 0
    name = call.node.network.hostname
    call.out(f"{name.partition('.')[0] if short else name}\n")
    return 0
