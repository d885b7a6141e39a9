# SPDX-License-Identifier: Apache-2.0
"""What Nova asks of the driver, as spans: whose request it is, and about which instance."""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from oslo_context import context as oslo_context

from nova_smartos.smartos import spans

C = TypeVar("C", bound=type)


def traced(cls: C) -> C:
    """Decorate a driver: each of its public methods is an entry point, and its calls are spans."""
    for name, method in list(vars(cls).items()):
        if inspect.isfunction(method) and not name.startswith("_"):
            setattr(cls, name, _traced(name, method))
    return cls


def _traced(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    parameters = list(inspect.signature(method).parameters)

    @functools.wraps(method)
    def entry(*args: Any, **kwargs: Any) -> Any:
        if not spans.on():
            return method(*args, **kwargs)
        with spans.about(**_labels(parameters, args, kwargs)), spans.span(name, "entry"):
            return method(*args, **kwargs)

    return entry


def _labels(
    parameters: Sequence[str], args: Sequence[Any], kwargs: dict[str, Any]
) -> dict[str, str | None]:
    given = {**dict(zip(parameters, args, strict=False)), **kwargs}
    # where Nova passes none it is the thread's, which is what its log shows, too
    context = given.get("context") or oslo_context.get_current()
    return {
        "request": getattr(context, "request_id", None),
        "instance": getattr(given.get("instance"), "uuid", None),
    }
