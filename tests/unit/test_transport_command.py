# SPDX-License-Identifier: Apache-2.0
"""Commands and results: what is refused, what is shown."""

import pytest

from nova_smartos.smartos import errors, transport

SECRET = 'p"ss wörd-22'


@pytest.mark.parametrize(
    "argv",
    [
        (),
        ("",),
        ("-vmadm",),
        ("A=b", "x"),
        ("/usr/sbin/vmadm",),
        ("vm adm",),
        ("vmadm\n",),
        ("vmadm;id",),
        ("vmadm", "a\0b"),
        ("vmadm", "x" * 200_000),
        ("vmadm", "\ud800"),
    ],
)
def test_a_command_that_cannot_be_carried_is_refused(argv: tuple[str, ...]) -> None:
    with pytest.raises(errors.InvalidPayload):
        transport.Command(argv)


@pytest.mark.parametrize(
    "argument", [SECRET, f"vnc_password={SECRET}", f"--x={SECRET}y", "k=" + SECRET]
)
def test_a_secret_among_the_arguments_is_refused_and_not_told(argument: str) -> None:
    with pytest.raises(errors.InvalidPayload) as caught:
        transport.Command(("vmadm", "update", argument), secrets=("", SECRET))
    assert SECRET not in str(caught.value)


def test_a_short_secret_is_refused_only_as_a_whole() -> None:
    transport.Command(("vmadm", "list"), secrets=("li",))
    for argument in ("li", "key=li"):
        with pytest.raises(errors.InvalidPayload):
            transport.Command(("vmadm", argument), secrets=("li",))


def test_the_input_and_the_secrets_are_not_shown() -> None:
    command = transport.Command(("vmadm", "create"), stdin=SECRET.encode(), secrets=(SECRET,))
    assert "rd-22" not in repr(command)


def test_a_result_keeps_the_output_and_shows_it_masked() -> None:
    printed = '{"a": "p\\"ss w\\u00f6rd-22", "b": "p\\"ss wörd-22"} ' + SECRET
    result = transport.Result(("vmadm", "get"), 0, printed, SECRET, 0.1, (SECRET,))
    assert result.stdout == printed
    assert "rd-22" not in repr(result)
    assert result.masked().stdout == '{"a": "***", "b": "***"} ***'


def test_a_line_of_a_secret_is_masked_too() -> None:
    assert transport.masked("near 'second line'", ("first line\nsecond line\n",)) == "near '***'"


def test_the_longest_secret_is_masked_first() -> None:
    assert transport.masked("abcdef", ("abc", "abcdef")) == "***"


def test_time_limits_follow_the_class() -> None:
    timeouts = transport.Timeouts(read=1, change=2, stream_idle=3)
    seconds = [
        timeouts.seconds(transport.Command(("vmadm",), timeout=kind)) for kind in transport.Timeout
    ]
    assert seconds == [1, 2, 3]
    assert timeouts.seconds(transport.Command(("vmadm",), seconds=7)) == 7
