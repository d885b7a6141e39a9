# SPDX-License-Identifier: Apache-2.0
"""Serve an OpenStack API: python -m gate.cloud.serve MODULE PORT [OPTION ...]."""

import importlib
import os
import socket
import sys

import waitress

from gate.cloud import model

THREADS = 8
#: How many processes serve an API, which has one lock in each: Neutron's is what others wait for.
PROCESSES = {"neutron.wsgi.api": 2}


def main(module: str, port: str, *options: str) -> None:
    """Load the API's WSGI application, and serve it until a signal comes."""
    # some of them read the command line, and would take ours for theirs
    sys.argv[1:] = options
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # it does not listen before one of them has the application
        listener.bind((model.HOST, int(port)))
        for _ in range(PROCESSES.get(module, 1) - 1):
            if os.fork() == 0:
                break
        application = importlib.import_module(module).application
        waitress.serve(application, sockets=[listener], threads=THREADS, ident=None)


if __name__ == "__main__":
    main(*sys.argv[1:])
