# SPDX-License-Identifier: Apache-2.0
"""The support matrix is the driver's own."""

import pytest

pytest.importorskip("nova", reason="missing: nova; pip install 'nova-smartos[functional]'")

from nova.virt import driver as nova_driver

from doc import support_matrix


def test_the_document_is_what_the_driver_says() -> None:
    assert support_matrix.PATH.read_text() == support_matrix.document(), "run make gendocs"


def test_every_method_that_it_names_is_novas() -> None:
    for _, methods in support_matrix.OPERATIONS:
        for name in methods:
            assert hasattr(nova_driver.ComputeDriver, name)


def test_what_is_refused_is_not_called_support() -> None:
    assert support_matrix.status("spawn") == "yes"
    assert support_matrix.status("swap_volume") == "no"
    assert support_matrix.status("check_can_live_migrate_destination") == "refused"
