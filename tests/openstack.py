# SPDX-License-Identifier: Apache-2.0
"""Nova's own test code: imported in one way, so that it leaves the rest of the process alone."""

import pathlib
import sysconfig
import warnings

import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pytest.importorskip("nova", reason="missing: nova; pip install 'nova-smartos[functional]'")
    pytest.importorskip("placement", reason="missing: openstack-placement")
    import nova.test

# The warnings of OpenStack's libraries are not ours to mend; those of our modules are.
QUIET = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning",
    "ignore::FutureWarning",
    "ignore::ImportWarning",
    "ignore::PendingDeprecationWarning",
    "ignore::ResourceWarning",
    "ignore::RuntimeWarning",
    "ignore::UserWarning",
    "error:::nova_smartos",
)


def api_paste() -> str:
    """The file that Nova's wheel installs, and its test fixtures do not find."""
    site = pathlib.Path(nova.__file__).parent.parent
    for folder in (site, pathlib.Path(sysconfig.get_path("data")), pathlib.Path("/")):
        if (found := folder / "etc/nova/api-paste.ini").exists():
            return str(found)
    pytest.skip("missing: etc/nova/api-paste.ini, which Nova's wheel brings")
