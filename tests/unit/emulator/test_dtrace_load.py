# SPDX-License-Identifier: Apache-2.0
"""What D programs count is what kstats count: every script of the tree, beside the node's load."""

import collections
import itertools
import random

import pytest

from smartos_emulator.dtrace import machine
from smartos_emulator.metrics import meter
from tests.unit.emulator import dtrace_node, metrics_node

ONE, TWO = metrics_node.ONE, metrics_node.TWO
LOAD = {
    "cpu": 2.3,
    "cpu_wait": 0.37,
    "disk_read": 3_000_000,
    "disk_write": 5_000_001,
    "disk_read_ops": 333,
    "disk_write_ops": 1234.5,
    "disk_sync": 0.37,
    "disk_delays": 17.3,
    "net_rx": 1_234_567,
    "net_tx": 76_543,
    "net_internal": 0.41,
    "tcp_retransmits": 7.7,
    "tcp_opens": 3.1,
}


@pytest.fixture
def node(tmp_path):
    """A node with two busy zones, one of which its cap holds back."""
    made = dtrace_node.Node(tmp_path)
    made.start(1)
    made.start(2, TWO, cpu_cap=150)
    for uuid in (ONE, TWO):
        made.metrics.load(uuid, **LOAD)
    made.clock.seconds += 1.234567891
    return made


def numbers(node):
    """What the kstats have of all that a script counts, by script and key."""
    found = {}
    for number, uuid in ((1, ONE), (2, TWO)):
        disk, files = node.values("zone_zfs", uuid), node.values("zone_vfs", uuid)
        zone = node.values("zones", uuid)
        link, tcp = node.values("link", uuid), node.kstat("tcp", "tcp", number).data
        keys = {
            ("zone_io", "ops", f"{number}", "1"): disk["reads"],
            ("zone_io", "ops", f"{number}", "2"): disk["writes"],
            ("zone_throttle", "ops", f"{number}"): files["delay_cnt"],
            ("zone_throttle", "us", f"{number}"): files["delay_time"],
            ("zone_vfs", "ops", uuid, "fop_read"): files["reads"],
            ("zone_vfs", "ops", uuid, "fop_write"): files["writes"],
            ("zone_vfs", "ns", uuid, "fop_read"): files["rlentime"],
            ("zone_vfs", "ns", uuid, "fop_write"): files["wlentime"],
            ("zone_cpu", "ns", uuid): zone["nsec_user"] + zone["nsec_sys"],
            ("zone_tcp", "retransmits", f"{number}"): tcp["retransSegs"],
            ("waits", f"{number}"): zone["nsec_waitrq"],
            ("zone_net", "bytes", f"{number}", "in"): link["rbytes64"] - 34 * link["ipackets64"],
            ("zone_net", "bytes", f"{number}", "out"): link["obytes64"] - 34 * link["opackets64"],
            ("zone_net", "packets", f"{number}", "in"): link["ipackets64"],
            ("zone_net", "packets", f"{number}", "out"): link["opackets64"],
        }
        found |= keys
    system = [each.data["syscall"] for each in node.metrics.read() if each.module == "cpu"]
    found["zone_syscall", "calls"] = sum(system)
    found["zone_io", "ops", "0", "2"] = node.values("zone_zfs", "global")["writes"]
    return found


#: Of these keys a kstat has the sum only: the class of a remote, the kind of an operation.
SUMMED = {"zone_throttle": (2,), "zone_tcp": (2,), "zone_net": (2,), "zone_syscall": (1,)}


def counted(frame, into):
    """Add a frame's values up as `numbers` has them."""
    script, _, values, _ = frame
    for key, value in values.items():
        left = tuple(part for place, part in enumerate(key) if place not in SUMMED.get(script, ()))
        name = (script, *left)
        if script in ("zone_runq", "zone_capwait") and key[0] == "ns":
            name = ("waits", key[1])
        into[name] = into.get(name, 0) + value


def difference(before, after):
    return {key: after[key] - before[key] for key in before}


def agrees(frames, expected, names):
    """Whether all of the last frames is in agreement with the kstats, to the last digit."""
    last = {frame[0]: frame for frame in frames}
    assert set(last) == set(names)
    sums = {}
    for frame in last.values():
        counted(frame, sums)
    checked = {key for key in expected if key in sums}
    assert {key: sums[key] for key in checked} == {key: expected[key] for key in checked}
    return checked


@pytest.mark.parametrize("name", [n for n in dtrace_node.SCRIPTS if n != "zone_final"])
def test_a_script_agrees_with_kstat(node, name):
    before = numbers(node)
    names = {"zone_runq": ("zone_runq", "zone_capwait"), "zone_capwait": ("zone_runq", name)}
    chosen = names.get(name, (name,))
    done = node.trace("-s", "/dev/stdin", "1", program=dtrace_node.text(*chosen), seconds=3.7)
    assert (done.status, done.err) == (0, "")
    frames = dtrace_node.frames(done.out)
    assert [frame[0] for frame in frames].count(name) == 4
    assert agrees(frames, difference(before, numbers(node)), chosen)


def test_all_scripts_are_one_program(node):
    before = numbers(node)
    every = dtrace_node.text(*dtrace_node.SCRIPTS)
    node.clock.at(1.5, lambda: node.metrics.load(ONE, cpu=0.2, net_rx=99, disk_write=7777))
    done = node.trace("-q", "-s", "/dev/stdin", "2", program=every, seconds=5.1)
    assert (done.status, done.err) == (0, "")
    expected = difference(before, numbers(node))
    frames = dtrace_node.frames(done.out)
    checked = agrees(frames, expected, dtrace_node.SCRIPTS)
    assert checked == set(expected)
    assert {frame[1] for frame in frames[:10]} == {frames[0][1]}


def test_every_frame_is_of_one_moment(node):
    """A frame shows what kstat would have shown at its very nanosecond, load changes or not."""
    before = numbers(node)
    start = node.metrics.hrtime()
    moments = {}
    for tick in (1, 2, 3):
        node.clock.at(tick, lambda at=tick: moments.update({at: numbers(node)}))
    node.clock.at(1.3, lambda: node.metrics.load(TWO, disk_write_ops=31.7, disk_sync=0.9))
    node.clock.at(2.7, lambda: node.metrics.load(TWO, disk_read_ops=0, disk_delays=0))
    names = ("zone_io", "zone_throttle", "zone_net")
    done = node.trace("-s", "/dev/stdin", "1", program=dtrace_node.text(*names), seconds=3.2)
    frames = dtrace_node.frames(done.out)
    for tick, seen in moments.items():
        at = [frame for frame in frames if frame[1] == start + tick * 10**9]
        assert len(agrees(at, difference(before, seen), names)) > 10


def test_distributions_hold_every_event(node):
    done = node.trace("-s", "/dev/stdin", "1", program=dtrace_node.text("zone_io"), seconds=2.5)
    for _, _, values, distributions in dtrace_node.frames(done.out):
        for (name, *key), rows in distributions.items():
            assert name == "us"
            assert sum(rows.values()) == values["ops", *key]
            least = sum(low * count for low, count in rows.items())
            assert least <= values["us", *key] < 2 * least


def test_a_window_counts_exactly(node):
    """Two runs, the one from where the other ends: together what one run counts."""
    start = node.metrics.hrtime()
    edge = start + 1_750_000_001
    end = start + 3_141_592_653
    program = dtrace_node.text("zone_io", "zone_net", "zone_throttle", "zone_vfs")
    kstats = {}

    def note():
        assert abs(node.metrics.hrtime() - end) < 1000
        kstats.update(numbers(node))

    before = numbers(node)
    twin = dtrace_node.Node(node.dir / "twin")
    sums = []
    for window in ((start, edge), (edge, end), (start, end)):
        other = rebuilt(twin)
        done = other.trace("-s", "/dev/stdin", "1", *map(str, window), program=program, seconds=5)
        assert done.err == ""
        total = {}
        for frame in {each[0]: each for each in dtrace_node.frames(done.out)}.values():
            counted(frame, total)
        sums.append(total)
    first, second, whole = sums
    assert {key: first.get(key, 0) + second.get(key, 0) for key in whole} == whole
    other = rebuilt(twin)
    other.clock.seconds = end / 10**9
    after = numbers(other)
    expected = difference(before, after)
    assert {key: whole[key] for key in whole if key in expected} == {
        key: expected[key] for key in whole if key in expected
    }


def rebuilt(like):
    """The node of the fixture anew, at the same moment."""
    made = dtrace_node.Node(like.dir)
    made.start(1)
    made.start(2, TWO, cpu_cap=150)
    for uuid in (ONE, TWO):
        made.metrics.load(uuid, **LOAD)
    made.clock.seconds += 1.234567891
    return made


def test_a_zone_that_goes_leaves_its_last_numbers(node):
    """Between two ticks a zone halts, another comes: nothing is lost."""
    seen = {}

    def halt():
        seen.update(zones=node.values("zones"), files=node.values("zone_vfs"))
        vm = node.vms.get(ONE)
        node.halt(vm, 1)

    node.clock.at(1.37, halt)
    node.clock.at(1.61, lambda: node.start(3))
    program = dtrace_node.text("zone_final", "zone_io", "zone_vfs")
    before = node.values("zone_zfs")["reads"], node.values("zone_vfs")["reads"]
    ended = {}
    node.clock.at(1.3699999, lambda: ended.update(node.values("zone_zfs")))
    done = node.trace("-s", "/dev/stdin", "1", program=program, seconds=4)
    (line,) = (each for each in done.out.splitlines() if each.startswith("F|"))
    _, script, name, number, at, _, *pairs = line.split("|")
    assert (script, name, number) == ("zone_final", ONE, "1")
    assert int(at) == 102_604_567_891
    values = dict(pair.split("=") for pair in pairs)
    zones, files = seen["zones"], seen["files"]
    assert values == {
        "nsec_user_raw": str(zones["nsec_user"]),
        "nsec_sys_raw": str(zones["nsec_sys"]),
        "nsec_waitrq_raw": str(zones["nsec_waitrq"]),
        "nread": str(files["nread"]),
        "reads": str(files["reads"]),
        "rlentime_raw": str(files["rlentime"]),
        "nwritten": str(files["nwritten"]),
        "writes": str(files["writes"]),
        "wlentime_raw": str(files["wlentime"]),
    }
    last = {frame[0]: frame[2] for frame in dtrace_node.frames(done.out)}
    assert last["zone_final"]["zones",] == 1
    assert last["zone_io"]["ops", "1", "1"] == ended["reads"] - before[0]
    # it came back as zone 3; the name stayed
    again = node.values("zone_vfs")["reads"]
    assert last["zone_io"]["ops", "3", "1"] == node.values("zone_zfs")["reads"] > 700
    assert last["zone_vfs"]["ops", ONE, "fop_read"] == again + files["reads"] - before[1]


def test_consumers_do_not_disturb_each_other(node):
    """Two programs at once count the same; the second begins later."""
    inner = []
    program = dtrace_node.text("zone_io")

    def second():
        done = node.trace("-s", "/dev/stdin", "1", program=program, seconds=2)
        inner.append(dtrace_node.frames(done.out)[-1][2]["ops", "1", "1"])

    node.clock.at(1.5, second)
    before = node.values("zone_zfs")["reads"]
    done = node.trace("-s", "/dev/stdin", "1", program=program, seconds=4)
    whole = dtrace_node.frames(done.out)[-1][2]["ops", "1", "1"]
    assert whole == node.values("zone_zfs")["reads"] - before == pytest.approx(4 * 333, abs=2)
    assert inner == [pytest.approx(2 * 333, abs=2)]


def test_idle_packets_are_exact_too(node):
    """Frames cut packets that take seconds; not a byte is lost, and none is counted twice."""
    node.metrics.load(ONE, net_rx=97, net_tx=61, net_rx_packets=0.31, net_tx_packets=0.11)
    node.clock.seconds += 40
    before = numbers(node)
    program = dtrace_node.text("zone_net")
    done = node.trace("-s", "/dev/stdin", "1", program=program, seconds=60.5)
    expected = difference(before, numbers(node))
    checked = agrees(dtrace_node.frames(done.out), expected, ("zone_net",))
    assert ("zone_net", "bytes", "1", "in") in checked


def test_hvm_guests_show_disks_and_processors_only(tmp_path):
    node = dtrace_node.Node(tmp_path)
    node.start(1, brand="bhyve", ram=512, vcpus=2)
    node.metrics.load(ONE, **LOAD)
    names = ("zone_io", "zone_net", "zone_tcp", "zone_vfs", "zone_cpu")
    done = node.trace("-s", "/dev/stdin", "1", program=dtrace_node.text(*names), seconds=2)
    last = {frame[0]: frame[2] for frame in dtrace_node.frames(done.out)}
    assert last["zone_io"]["ops", "1", "1"] == 666
    assert last["zone_cpu"]["ns", ONE] == 4 * 10**9
    assert not [key for name in ("zone_net", "zone_tcp") for key in last[name]]
    assert not last["zone_vfs"]


def test_few_events_stand_for_many(node, monkeypatch):
    """What a frame costs follows from the zones, and not from how busy they are."""
    fired = []
    fire = machine.Machine.fire
    monkeypatch.setattr(
        machine.Machine, "fire", lambda *given: (fired.append(given[2:]), fire(*given))
    )
    names = ("zone_io", "zone_throttle", "zone_capwait", "zone_net", "zone_tcp", "zone_final")
    for busier in (1, 1000):
        fired.clear()
        for uuid in (ONE, TWO):
            rates = {key: value for key, value in LOAD.items() if key not in meter.SHARES}
            node.metrics.load(uuid, **{key: value * busier for key, value in rates.items()})
        node.trace("-s", "/dev/stdin", "1", program=dtrace_node.text(*names), seconds=10)
        assert len(fired) < 10 * (2 * 40 + 20)


@pytest.mark.parametrize("seed", range(6))
def test_whatever_happens(tmp_path, seed):
    """Loads change, zones come, go and come back under other ids: all that was done is counted."""
    dice = random.Random(seed)
    node = dtrace_node.Node(tmp_path, seed=seed)
    ids = itertools.count(1)
    up, done = {}, collections.Counter()

    def note(number, uuid, sign):
        disk, files = node.values("zone_zfs", uuid), node.values("zone_vfs", uuid)
        link = node.values("link", uuid)
        done["reads", number] += sign * disk["reads"]
        done["writes", number] += sign * disk["writes"]
        done["read time"] += sign * files["rlentime"]
        done["bytes", number] += sign * (link["rbytes64"] - 34 * link["ipackets64"])

    def something():
        uuid = dice.choice((ONE, TWO))
        if uuid not in up:
            up[uuid] = next(ids)
            node.start(up[uuid], uuid, cpu_cap=dice.choice((0, 70)))
        elif dice.random() < 0.4:
            number = up.pop(uuid)
            note(number, uuid, 1)
            node.halt(node.vms.get(uuid), number)
        else:
            rates = {key: dice.random() * value for key, value in LOAD.items()}
            node.metrics.load(uuid, **rates)

    for _ in range(40):
        node.clock.at(dice.uniform(0, 20), something)
    program = dtrace_node.text("zone_io", "zone_vfs", "zone_net")
    for _ in range(3):
        something()
    for uuid, number in up.items():
        note(number, uuid, -1)
    later = node.values("zone_zfs", "global")["writes"]
    out = node.trace("-s", "/dev/stdin", "1", program=program, seconds=21)
    for uuid, number in up.items():
        note(number, uuid, 1)
    last = {frame[0]: frame[2] for frame in dtrace_node.frames(out.out)}
    assert out.err == ""
    found = collections.Counter()
    for (name, number, kind), value in last["zone_io"].items():
        if name == "ops" and number != "0":
            found[{"1": "reads", "2": "writes"}[kind], int(number)] += value
    for (name, _, function), value in last["zone_vfs"].items():
        if (name, function) == ("ns", "fop_read"):
            found["read time"] += value
    for (name, number, _, way), value in last["zone_net"].items():
        if (name, way) == ("bytes", "in"):
            found["bytes", int(number)] += value
    assert last["zone_io"]["ops", "0", "2"] == node.values("zone_zfs", "global")["writes"] - later
    exact = {key for key in done if key[0] != "bytes"}
    assert {key: found[key] for key in exact} == {key: done[key] for key in exact}
    for key in done.keys() - exact:
        # a packet that was under way when its zone halted never arrived
        assert 0 <= done[key] - found[key] < 10_000


def test_a_late_run_makes_up_for_it(node):
    """A daemon that was held up fires every tick at its own time."""
    node.clock.at(1.5, lambda: setattr(node.clock, "seconds", node.clock.seconds + 2.25))
    before = node.metrics.hrtime()
    done = node.trace("-s", "/dev/stdin", "1", program=dtrace_node.text("zone_io"), seconds=4.5)
    moments = [frame[1] - before for frame in dtrace_node.frames(done.out)]
    assert moments[:4] == [10**9, 2 * 10**9, 3 * 10**9, 4 * 10**9]
