# SPDX-License-Identifier: Apache-2.0
"""Serve an OpenStack API: python -m gate.cloud.serve MODULE PORT [OPTION ...]."""

import importlib
import sys

import waitress

from gate.cloud import model

THREADS = 8


def main(module: str, port: str, *options: str) -> None:
    """Load the API's WSGI application, and serve it until a signal comes."""
    # some of them read the command line, and would take ours for theirs
    sys.argv[1:] = options
    application = importlib.import_module(module).application
    waitress.serve(application, host=model.HOST, port=int(port), threads=THREADS, ident=None)


if __name__ == "__main__":
    main(*sys.argv[1:])
