# SPDX-License-Identifier: Apache-2.0
"""The cloud of $SMARTOS_CLOUD, and people who use it."""

import os
import pathlib
from collections.abc import Iterator

import pytest

from gate.cloud import model
from gate.stories import people


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "idle: needs a cloud where nothing happens for a minute")


@pytest.fixture(scope="session")
def cloud() -> model.Cloud:
    found = model.Cloud.load(pathlib.Path(os.environ["SMARTOS_CLOUD"]))
    assert found is not None, f"there is no cloud in {os.environ['SMARTOS_CLOUD']}"
    return found


@pytest.fixture(scope="session")
def admin(cloud: model.Cloud) -> people.Person:
    return people.administrator(cloud)


@pytest.fixture
def tenants(cloud: model.Cloud, admin: people.Person) -> Iterator[people.Tenants]:
    """Makes projects with a user and a network each, and removes all they have left."""
    with people.Tenants(cloud, admin) as made:
        yield made


@pytest.fixture
def anna(tenants: people.Tenants) -> people.Person:
    """Somebody with a project of her own."""
    return tenants.add("anna")


@pytest.fixture
def emulated(cloud: model.Cloud) -> model.Cloud:
    """The cloud, if its nodes may be broken."""
    if not all(node.emulated for node in cloud.nodes):
        pytest.skip("breaks its nodes, which must be emulated ones")
    return cloud
