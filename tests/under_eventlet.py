# SPDX-License-Identifier: Apache-2.0
"""The pytest plugin of the eventlet environment: patch the standard library as Nova can do."""

import warnings

with warnings.catch_warnings():
    # eventlet says on import that it is going away: known, and not what these runs are about
    warnings.simplefilter("ignore")
    import eventlet

    eventlet.monkey_patch()


def pytest_report_header() -> str:
    """The line that shows which run this is."""
    return f"under eventlet {eventlet.__version__}, monkey patched"
