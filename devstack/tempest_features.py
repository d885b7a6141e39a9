# SPDX-License-Identifier: Apache-2.0
"""What Tempest is told of the driver, asked of the driver itself: SECTION OPTION VALUE a line."""

import argparse
import pathlib
import sys
from collections.abc import Iterator

#: Tempest boots a zone: image_ref is one. Only kvm can make its guest stand still.
ZONES_LACK = {"pause"}


def features(nodes: int, emulated: bool) -> Iterator[tuple[str, str, bool | int]]:
    """The options of tempest.conf that differ by driver, nodes and guests."""
    # here, since --help needs no Nova
    from doc import support_matrix

    def does(*methods: str) -> bool:
        return all(support_matrix.status(name) == "yes" for name in methods)

    snapshots = does("snapshot")
    # each emulated node lets its own nova-compute in alone
    moves = does("migrate_disk_and_power_off", "finish_migration") and not emulated
    enabled = {
        "attach_encrypted_volume": does("attach_volume"),
        "change_password": does("set_admin_password"),
        "cold_migration": moves and nodes > 1,
        "console_output": does("get_console_output"),
        "interface_attach": does("attach_interface", "detach_interface"),
        "live_migration": does("check_can_live_migrate_destination", "live_migration"),
        "pause": does("pause", "unpause"),
        "rescue": does("rescue", "unrescue"),
        # the scheduler may choose any node for it
        "resize": moves or nodes == 1,
        "shelve": snapshots,
        "shelve_migrate": snapshots and nodes > 1,
        "snapshot": snapshots,
        # by the device that an image names; a zone has none
        "stable_rescue": False,
        "suspend": does("suspend", "resume"),
        "swap_volume": does("swap_volume"),
    }
    for option, value in enabled.items():
        yield "compute-feature-enabled", option, value and option not in ZONES_LACK
    yield "compute", "min_compute_nodes", nodes
    if not does("attach_volume"):
        yield "service_available", "cinder", False
    if emulated:
        # nothing answers ssh: no software runs in an emulated guest, and links carry no packets
        yield "validation", "run_validation", False


def main(argv: list[str] | None = None) -> None:
    """Print them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("nodes", type=int, help="how many nodes the cloud has")
    parser.add_argument("emulated", choices=("yes", "no"), help="whether any of them is emulated")
    options = parser.parse_args(argv)
    for section, option, value in features(options.nodes, options.emulated == "yes"):
        print(section, option, value)


if __name__ == "__main__":
    # for `doc`, which is not installed
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
    main()
