# SPDX-License-Identifier: Apache-2.0
"""What vmadm finds wrong with a payload, as it collects and prints it."""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Verdict:
    """The outcome, in the order of discovery."""

    bad_brand: str | None = None
    bad_values: list[str] = dataclasses.field(default_factory=list)
    bad_properties: list[str] = dataclasses.field(default_factory=list)
    missing_properties: list[str] = dataclasses.field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether there is nothing to complain about."""
        return self.bad_brand is None and not (
            self.bad_values or self.bad_properties or self.missing_properties
        )

    def to_json(self) -> dict[str, Any]:
        """The object that `vmadm validate` prints."""
        if self.bad_brand is not None:
            return {"bad_brand": self.bad_brand}
        return {
            "bad_values": self.bad_values,
            "bad_properties": self.bad_properties,
            "missing_properties": self.missing_properties,
        }

    def bad_value(self, name: str) -> None:
        """Note a bad value; each name once."""
        if name not in self.bad_values:
            self.bad_values.append(name)

    def bad_property(self, name: str) -> None:
        """Note a property that must not be there; each name once."""
        if name not in self.bad_properties:
            self.bad_properties.append(name)
