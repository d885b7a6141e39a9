# SPDX-License-Identifier: Apache-2.0
"""zonememstat(8): memory of the running zones."""

import getopt

from smartos_emulator import call as call_module
from smartos_emulator.metrics import kstat

_USAGE = "zonememstat [-athH] [-p | -o] [-z zonename]\n"
_MIB = 1 << 20
# A cap of this many MiB is none.
_NO_CAP = 2147483000
_SHORTEST_ALIAS = 12


def main(call: call_module.Call) -> int:
    """zonememstat [-a] [-t] [-H] [-o] [-z ZONE]"""
    try:
        pairs, _ = getopt.getopt(call.argv[1:], "aoHhptz:")
    except getopt.GetoptError as error:
        call.err(f"/usr/sbin/zonememstat: illegal option -- {error.opt}\n")
        call.out(_USAGE)
        return 1
    options = dict(pairs)
    if "-h" in options:
        call.out(_USAGE)
        return 0
    if "-p" in options:
        raise call_module.Exit(1, "zonememstat: -p (sums over processes) is not emulated\n")
    aliases = {vm["zonename"]: vm.get("alias", "-") for vm in call.node.vms.all()}
    _Table(call, options, aliases if "-a" in options else None).show()
    return 0


class _Table:
    """The lines, with or without aliases."""

    def __init__(
        self, call: call_module.Call, options: dict[str, str], aliases: dict[str, str] | None
    ) -> None:
        self._call = call
        self._options = options
        self._aliases = aliases
        self._width = max([_SHORTEST_ALIAS, *map(len, (aliases or {}).values())])

    def show(self) -> None:
        if "-H" not in self._options:
            self._line(["ZONE", "ALIAS", "RSS(MB)", "CAP(MB)", "NOVER", "POUT(MB)", "SWAP%"])
        found = [k for k in self._call.node.metrics.read() if k.module == "memory_cap"]
        totals = [0.0, 0.0, 0.0, 0.0]
        for each in sorted(found, key=lambda k: (k.instance, k.name)):
            self._zone(each, totals)
        if "-t" in self._options:
            self._line(["total", "-", *(str(int(total)) for total in totals), "-"])

    def _zone(self, each: kstat.Kstat, totals: list[float]) -> None:
        numbers = {name: v for name, v in each.data.items() if isinstance(v, int)}
        rss, cap, over = numbers["rss"] / _MIB, numbers["physcap"] / _MIB, numbers["nover"]
        out = numbers["pagedout"] / _MIB
        for at, value in enumerate((rss, cap if cap < _NO_CAP else 0, over, out)):
            totals[at] += value
        name = str(each.data["zonename"])
        if self._options.get("-z", name) != name or ("-o" in self._options and not over):
            return
        swap_cap = numbers["swapcap"] / _MIB
        swap = "-" if swap_cap >= _NO_CAP else f"{numbers['swap'] / _MIB / swap_cap * 100:.6g}"
        shown = ["-", "-", "-"] if cap >= _NO_CAP else [str(int(v)) for v in (cap, over, out)]
        alias = (self._aliases or {}).get(name, "-") or "-"
        self._line([name, alias, str(int(rss)), *shown, swap])

    def _line(self, cells: list[str]) -> None:
        widths = [37, self._width, 8, 6, 8, 9, 5]
        if self._aliases is None:
            widths = [37, 8, 8, 6, 9, 5]
            cells = [cells[0], *cells[2:]]
        padded = [cell.rjust(width) for cell, width in zip(cells, widths, strict=True)]
        self._call.out(" ".join(padded) + "\n")
