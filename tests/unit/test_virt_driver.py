# SPDX-License-Identifier: Apache-2.0
"""Nova's own test of a driver, on an emulated node.

Nova counts a NotImplementedError as success. Here the table in the documents says which tests that
is true of, and of which method: each test compares its row with what happened.
"""

import copy
import csv
import pathlib
import re
import warnings
from typing import Any

import fixtures

from tests import emulated, openstack
from tests.functional import cloud, images

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import nova.test
    from nova import objects
    from nova.tests.unit import utils as nova_utils
    from nova.tests.unit.virt import test_virt_drivers

from nova_smartos import conf as smartos_conf

pytestmark = openstack.QUIET

TABLE = pathlib.Path(__file__).parents[2] / "doc/source/driver-tests.csv"
#: What nova-compute passes to init_host.
HOST = "myhostname"
IMAGE = "cedef40a-ed67-4d10-800e-17455edce175"
_REFUSED = re.compile(r"does not implement (\w+) required for test (\w+)")
_node = emulated.EmulatedNode("--speed", cloud.SPEED, "--nic-tag", "external")


def setup_module() -> None:
    _node.setUp()


def teardown_module() -> None:
    _node.cleanUp()


def rows() -> dict[str, str]:
    """The table: what became of each test, by name."""
    with TABLE.open() as file:
        return {row["test"]: row["outcome"] for row in csv.DictReader(file)}


class TestSmartOSDriver(test_virt_drivers._VirtDriverTestCase, nova.test.TestCase):
    """The tests are Nova's. What stands here is what they need to find."""

    driver_module = "nova.virt.smartos.SmartOSDriver"

    def setUp(self) -> None:
        smartos_conf.register(cloud.CONF)
        super().setUp()
        self.flags(host=HOST)
        options = {**cloud.connection(_node), "trusted_image_owners": ["*"]}
        options["network_mappings"] = ["*:*:external"]
        for name, value in options.items():
            cloud.CONF.set_override(name, value, smartos_conf.GROUP)
        self.image_service = self.useFixture(images.Glance(self))
        self._give_the_image_bytes()
        self.connection.init_host(HOST)
        # one of the tests does that again, and what it had would stay
        self.addCleanup(copy.copy(self.connection).cleanup_host, HOST)
        self.addCleanup(self._clean)

    def _give_the_image_bytes(self) -> None:
        """The server is a zone, but for the test of what only a virtual machine has."""
        folder = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        if self._testMethodName in ("test_get_vnc_console", "test_trigger_crash_dump"):
            properties, data = dict[str, str](), images.disk(8)
        else:
            properties, data = images.stream(_node, folder, "zone")
        self.image_service.delete(None, IMAGE)
        images.upload(self.image_service, data, properties, id=IMAGE)
        make = nova_utils.get_test_instance

        def instance(context: Any = None, flavor: Any = None, obj: bool = False) -> Any:
            # Nova's API keeps the image's properties with every instance
            made = make(context, flavor, obj)
            if obj:
                made.system_metadata = {f"image_{key}": properties[key] for key in properties}
                made.save()
            return made

        self.stub_out("nova.tests.unit.utils.get_test_instance", instance)
        if self._testMethodName in ("test_rescue", "test_unrescue_rescued_instance"):
            # these name no image, as Nova itself always does
            named = objects.ImageMeta.from_dict(self.image_service.show(None, IMAGE))
            self.stub_out("nova.objects.ImageMeta.from_dict", lambda *_: named)

    def _clean(self) -> None:
        self.connection.cleanup_host(HOST)
        for uuid in _node.tool("vmadm", "lookup").split():
            _node.tool("vmadm", "delete", uuid)

    def tearDown(self) -> None:
        said = self.stdlog.logger.output
        refused = [method for method, _ in _REFUSED.findall(said)]
        super().tearDown()
        outcome = f"{refused[0]} is not implemented" if refused else "implemented"
        self.assertEqual(rows().get(self._testMethodName), outcome)

    def __delattr__(self, name: str) -> None:
        # Nova's tearDown empties the object; pytest's runner then deletes what it had put there
        if name in self.__dict__:
            super().__delattr__(name)

    def test_live_migration(self) -> None:
        # the one test that takes no NotImplementedError for success
        self.assertRaises(NotImplementedError, super().test_live_migration)
        test_virt_drivers.LOG.error(
            "does not implement live_migration required for test test_live_migration"
        )

    def test_live_migration_force_complete(self) -> None:
        # the test writes into an attribute of Nova's fake driver
        self.connection.active_migrations = {}
        super().test_live_migration_force_complete()


def test_the_table_has_every_test_of_novas() -> None:
    base = test_virt_drivers._VirtDriverTestCase
    assert sorted(rows()) == sorted(name for name in dir(base) if name.startswith("test_"))
