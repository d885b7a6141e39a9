# SPDX-License-Identifier: Apache-2.0
"""tail: the end of a file of the node's tree."""

import os
import re

from smartos_emulator import call as call_module

_USAGE = "usage: tail -c BYTES FILE\n"


def main(call: call_module.Call) -> int:
    """tail -c BYTES FILE"""
    words = call.argv[1:]
    if len(words) != 3 or words[0] != "-c" or not re.fullmatch("[0-9]+", words[1]):
        raise call_module.Exit(1, _USAGE)
    try:
        with open(call.host_path(words[2]), "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - int(words[1])))
            call.stdout.write(file.read(int(words[1])))
    except OSError as error:
        call.err(f"tail: {words[2]}: {error.strerror}\n")
        return 1
    return 0
