# SPDX-License-Identifier: Apache-2.0
"""For nova-api: what flavors may ask for, so that a misspelt one is refused when it is written.

Nova loads this through its entry point nova.api.extra_spec_validators.
"""

from typing import Any

from nova.api.validation.extra_specs import base

from nova_smartos.translate import specs


def register() -> list[base.ExtraSpecValidator]:
    """A validator for each row of the table that flavors may use."""
    return [
        base.ExtraSpecValidator(name=row.flavor_key, description=row.text, value=_value(row.kind))
        for row in specs.TABLE
        if row.flavor
    ]


def _value(kind: specs.Kind) -> dict[str, Any]:
    if kind.words:
        # not Nova's bool, which takes words that mean nothing here
        return {"type": str, "enum": list(kind.words)}
    if kind.minimum is not None:
        return {"type": int, "min": kind.minimum, "max": kind.maximum}
    return {"type": str, "pattern": kind.pattern}
