# SPDX-License-Identifier: Apache-2.0
"""smartos-meter: the meters of a node, or of one instance, live in a terminal or once as JSON.

It reads a polling agent's configuration (--config-file), or nova-compute's own, and the nodes that
this names; the agent's ledger and its final readings it leaves alone. Totals count from the boot of
each zone. The exit status is 0, or 1 when no node, or no such instance, could be read.
"""

import argparse
import json
import os
import pathlib
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from oslo_config import cfg

from ceilometer_plugin import conf as meters_conf
from ceilometer_plugin import ledger, metering, meters

DONE, FAILED = 0, 1
#: Between two readings.
SECONDS = 2.0

# How long a consumer may take until its first frame.
_FRAME_SECONDS = 60.0
_PROBED = frozenset(
    each.name for each in meters.METERS if isinstance(each.source, (meters.Probes, meters.Below))
)
_CLEAR = "\x1b[H\x1b[2J"
_COLUMNS = ("INSTANCE", "STATE", "CPU %", "WAIT %", "MEMORY", "OF", "IN/s", "OUT/s", "READ/s",
            "WRITE/s", "HELD UP %")  # fmt: skip
_WIDTHS = (24, 8, 7, 7, 8, 8, 9, 9, 9, 9, 10)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the console script."""
    parser = _parser()
    options = parser.parse_args(argv)
    if options.dtrace and not options.json:
        parser.error("the table has nothing of DTrace's: --dtrace needs --json")
    conf = cfg.ConfigOpts()
    meters_conf.register(conf)
    try:
        conf([], default_config_files=options.config_file, default_config_dirs=[])
        with tempfile.TemporaryDirectory(prefix="smartos-meter-") as folder:
            conf.set_override("ledger", os.path.join(folder, "ledger"), meters_conf.GROUP)
            if not options.dtrace:
                conf.set_override("scripts", [], meters_conf.GROUP)
            conf.set_override("dtrace_period", 1, meters_conf.GROUP)
            # the totals of this command are nobody's invoice
            found = metering.Metering(conf, finals=False, from_boot=True)
            try:
                return _show(found, options)
            finally:
                found.close()
    except (cfg.Error, OSError, ledger.Busy) as error:
        print(f"smartos-meter: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        return DONE


def _show(found: metering.Metering, options: argparse.Namespace) -> int:
    out = sys.stdout
    first = found.cycle()
    if options.json:
        rows = _rows(first, options.instance)
        end = time.monotonic() + _FRAME_SECONDS
        # the first frames come after a while
        while options.dtrace and rows and not any(row["meter"] in _PROBED for row in rows):
            if time.monotonic() > end:
                print("smartos-meter: DTrace tells nothing on this node", file=sys.stderr)
                return FAILED
            time.sleep(options.interval)
            rows = _rows(found.cycle(), options.instance)
        json.dump(rows, out, indent=2)
        out.write("\n")
        return DONE if rows else _nothing(options)
    before, then = volumes(first, options.instance), time.monotonic()
    if not before:
        return _nothing(options)
    while True:
        time.sleep(options.interval)
        now = volumes(found.cycle(), options.instance)
        passed = time.monotonic() - then
        # what is shown once takes its place below what was there
        clear = _CLEAR if out.isatty() and not options.once else ""
        out.write(clear + table(before, now, passed))
        out.flush()
        if options.once:
            return DONE
        before, then = now, then + passed


def _nothing(options: argparse.Namespace) -> int:
    what = f"instance {options.instance}" if options.instance else "instance of Nova's"
    print(f"smartos-meter: no {what} was found", file=sys.stderr)
    return FAILED


def volumes(cycle: metering.Cycle, instance: str | None) -> dict[str, dict[str, Any]]:
    """By instance: its name, and the volume of each meter, summed over its nics and disks."""
    found: dict[str, dict[str, Any]] = {}
    for meter, each in _samples(cycle, instance):
        uuid = each.resource_metadata["instance_id"]
        row = found.setdefault(uuid, {"": each.resource_metadata["display_name"]})
        if meter.resource == meters.INSTANCE:
            row[meter.name] = each.volume
        elif meter.type == meters.CUMULATIVE and each.volume:
            row[meter.name] = row.get(meter.name, 0) + each.volume
    return found


def table(
    before: Mapping[str, Mapping[str, Any]], now: Mapping[str, Mapping[str, Any]], seconds: float
) -> str:
    """A line an instance: what it does a second, and what it has."""
    lines = [_line(_COLUMNS)]
    for uuid, row in sorted(now.items(), key=lambda item: -_rate(before, item, "cpu", seconds)):

        def rate(name: str, uuid: str = uuid, row: Mapping[str, Any] = row) -> float:
            return _rate(before, (uuid, row), name, seconds)

        running = row.get("power.state") == 1
        cells = (
            row[""],
            "running" if running else "off",
            f"{rate('cpu') / 1e7:.1f}",
            f"{rate('smartos.cpu.wait') / 1e7:.1f}",
            _bytes(row.get("memory.resident", 0) * 2**20),
            _bytes(row.get("memory", 0) * 2**20),
            _bytes(rate("network.incoming.bytes")),
            _bytes(rate("network.outgoing.bytes")),
            _bytes(rate("disk.device.read.bytes")),
            _bytes(rate("disk.device.write.bytes")),
            f"{rate('smartos.zfs.throttle.time') / 1e4:.1f}",
        )
        lines.append(_line(cells))
    return "".join(lines)


def _rate(
    before: Mapping[str, Mapping[str, Any]],
    now: tuple[str, Mapping[str, Any]],
    name: str,
    seconds: float,
) -> float:
    uuid, row = now
    old = before.get(uuid, {}).get(name)
    return 0.0 if old is None else float((row.get(name, old) - old) / seconds)


def _rows(cycle: metering.Cycle, instance: str | None) -> list[dict[str, Any]]:
    """The newest sample of every meter, with all that is to be known of it."""
    rows = {}
    for meter, each in _samples(cycle, instance):
        told = each.resource_metadata
        rows[each.name, each.resource_id] = {
            "instance": told["instance_id"],
            "name": told["display_name"],
            "project": each.project_id,
            "resource": each.resource_id,
            "meter": each.name,
            "volume": each.volume,
            "unit": each.unit,
            "type": each.type,
            "source": str(meter.source),
            "quality": told["quality"],
            "time": each.timestamp,
        }
    return list(rows.values())


def _samples(cycle: metering.Cycle, instance: str | None) -> Iterator[tuple[meters.Meter, Any]]:
    for meter in meters.METERS:
        if meter.resource == meters.NODE:
            continue
        for each in cycle.samples(meter):
            told = each.resource_metadata
            if instance in (None, told["instance_id"], told["display_name"], told["name"]):
                yield meter, each


def _bytes(count: float) -> str:
    for unit in ("B", "K", "M", "G", "T"):
        if count < 1000 or unit == "T":
            return f"{count:.0f}{unit}" if count >= 100 or unit == "B" else f"{count:.1f}{unit}"
        count /= 1024
    raise AssertionError


def _line(cells: Sequence[object]) -> str:
    first, *rest = (str(cell)[: width - 1] for cell, width in zip(cells, _WIDTHS, strict=True))
    right = "".join(cell.rjust(width) for cell, width in zip(rest, _WIDTHS[1:], strict=True))
    return f"{first.ljust(_WIDTHS[0])}{right}\n"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="smartos-meter",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("instance", nargs="?", help="name or uuid; all when it is not given")
    parser.add_argument(
        "--config-file", action="append", required=True, type=pathlib.Path, metavar="FILE"
    )
    parser.add_argument("--json", action="store_true", help="print all samples once, as JSON")
    parser.add_argument("--once", action="store_true", help="print the table once")
    parser.add_argument("--dtrace", action="store_true", help="with --json: run the D scripts, too")
    parser.add_argument(
        "--interval", type=float, default=SECONDS, metavar="SECONDS",
        help="between two readings (default: %(default)s)",
    )  # fmt: skip
    return parser


if __name__ == "__main__":
    sys.exit(main())
