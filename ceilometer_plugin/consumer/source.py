# SPDX-License-Identifier: Apache-2.0
"""Several D scripts as one program."""

import re
from collections.abc import Mapping

from ceilometer_plugin.consumer import frames

_AGGSIZE = re.compile(r"^(#pragma D option aggsize=)(\d+)k$", re.MULTILINE)
_COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)
_PROBE = re.compile(r"^(\w+:[^:\s]*:[^:\s]*:[\w-]+),?$", re.MULTILINE)
_REFUSAL = re.compile(r"\bline (?P<line>\d+): (?P<why>.*)")
#: They are there for whoever asks.
_ALWAYS = ("dtrace:", "profile:")


class Scripts:
    """Their texts by their names, in their order."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        self.texts = dict(texts)
        # the line that names the interpreter is for a script that runs alone
        self.text = "\n".join(re.sub(r"\A#!.*", "", text) for text in self.texts.values())
        self.shapes = frames.shapes(self.text)

    def without(self, names: Mapping[str, str]) -> "Scripts":
        """The same, some scripts left out."""
        return Scripts({name: text for name, text in self.texts.items() if name not in names})

    def with_room(self, factor: int) -> "Scripts":
        """The same, with so many times the memory for aggregations."""
        grown = {
            name: _AGGSIZE.sub(lambda found: f"{found[1]}{int(found[2]) * factor}k", text)
            for name, text in self.texts.items()
        }
        return Scripts(grown)

    def probes(self) -> dict[str, set[str]]:
        """The probes that each script needs, but for those that are always there."""
        return {
            name: {
                probe
                for probe in _PROBE.findall(_COMMENT.sub("", text))
                if not probe.startswith(_ALWAYS)
            }
            for name, text in self.texts.items()
        }

    def refused(self, said: str) -> dict[str, str]:
        """The script that a compiler stumbled over, and why, from what it said of a line."""
        found = _REFUSAL.search(said)
        end = 0
        for name, text in self.texts.items() if found else ():
            end += text.count("\n") + 1
            if found and int(found["line"]) <= end:
                return {name: found["why"]}
        return {}
