# SPDX-License-Identifier: Apache-2.0
"""The firewall's rule language: canonical text, what is refused and in which words."""

import pytest

from smartos_emulator.fwadm import addresses, errors, lexer, rules, sorting

VM = "5f0c3a52-1d1e-4a7b-9d55-0c4f6a1b2c3d"


def text(rule, **properties):
    return rules.Rule({"rule": rule, "global": True, **properties}, True).text()


def refusal(rule="FROM any TO all vms ALLOW tcp PORT 1", **properties):
    with pytest.raises(errors.FirewallError) as caught:
        rules.Rule({"rule": rule, **properties}, True)
    return [part.message for part in caught.value.parts()]


@pytest.mark.parametrize(
    ("rule", "canonical"),
    [
        ("from any to all vms allow tcp port 80", "FROM any TO all vms ALLOW tcp PORT 80"),
        ("FROM (any) TO (all vms) BLOCK udp PORT all", "FROM any TO all vms BLOCK udp PORT all"),
        (
            f"FROM (vm {VM} OR tag b OR tag a = 1 OR ip 10.1.0.9 OR tag b = x) TO any BLOCK ah",
            f'FROM (ip 10.1.0.9 OR tag "a" = "1" OR tag "b" OR vm {VM}) TO any BLOCK ah',
        ),
        (
            "FROM any TO tag t ALLOW tcp (PORT 90 AND PORT 8)",
            'FROM any TO tag "t" ALLOW tcp (PORT 8 AND PORT 90)',
        ),
        (
            "FROM any TO tag t ALLOW tcp PORTS 90-99, 008",
            'FROM any TO tag "t" ALLOW tcp PORTS 8, 90 - 99',
        ),
        ("FROM any TO tag t ALLOW tcp PORTS 7", 'FROM any TO tag "t" ALLOW tcp PORT 7'),
        (
            "FROM any TO all vms ALLOW icmp (TYPE 5 AND TYPE 3 CODE 1) PRIORITY 7",
            "FROM any TO all vms ALLOW icmp (TYPE 3 CODE 1 AND TYPE 5) PRIORITY 7",
        ),
        (
            "FROM subnet 2001:db8::/32 TO all vms ALLOW icmp6 TYPE all PRIORITY 0",
            "FROM subnet 2001:db8::/32 TO all vms ALLOW icmp6 TYPE all",
        ),
        (
            'FROM tag "tab\\there" = "(\\u00e9\\u2003)" TO any BLOCK esp',
            'FROM tag "tab\\there" = "\\(é\\u2003\\)" TO any BLOCK esp',
        ),
    ],
)
def test_canonical_text(rule, canonical):
    assert text(rule) == canonical
    assert text(canonical) == canonical


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("FROM any TO any ALLOW ah", "rule does not affect VMs"),
        (
            "FROM any all",
            "Error at character 8: 'all', expected: 'TO', 'BLOCK', 'ALLOW', found: ALL",
        ),
        (
            "FROM any\nTO all\n ALLOW",
            "Error at character 6: 'ALLOW', expected: 'VMS', found: ALLOW",
        ),
        ("FROM any TO tag é", "Error at character 16: 'é', found: unexpected text"),
        ("FROM ip 10.0.0.999 TO all vms ALLOW ah", 'IPv4 address "10.0.0.999" is invalid'),
        (
            "FROM subnet 10.0.0.0/33 TO all vms ALLOW ah",
            'Subnet "10.0.0.0/33" is invalid (bad prefix length)',
        ),
        ("FROM vm x TO any BLOCK ah", 'UUID "x" is invalid'),
        ("FROM any TO all vms ALLOW tcp PORT 0", 'Port number "0" is invalid'),
        (
            "FROM any TO all vms ALLOW tcp PORTS 1-2-3",
            '"1-2-3" is not a valid port number or range',
        ),
        (
            "FROM any TO all vms ALLOW udp PORTS 9-3",
            "The end of the range (3) cannot be less than the start (9)",
        ),
        (f"FROM any TO all vms ALLOW ah PRIORITY 1{'0' * 5000}", 'Priority level "1000'),
        (
            "FROM ip ::1 TO all vms ALLOW icmp TYPE 8",
            "rule affects ICMPv4 but contains a non-IPv4 address",
        ),
        (
            "FROM any TO (" + " OR ".join(f"tag t{n}" for n in range(25)) + ") ALLOW ah",
            "maximum of 24 targets allowed per side",
        ),
        (
            "FROM any TO all vms ALLOW tcp PORTS " + ", ".join(map(str, range(1, 26))),
            "maximum of 24 ports allowed",
        ),
        ("", "No rule specified"),
        (17, "Object 17 has no method 'match'"),
    ],
)
def test_refused_text(rule, message):
    (said,) = refusal(rule, **{"global": True})
    assert said.startswith(message)


def test_syntax_error_says_where():
    with pytest.raises(errors.InvalidParam) as caught:
        rules.Rule({"rule": "FROM any TO all vms PASS tcp", "global": True})
    assert caught.value.field == "rule"
    assert caught.value.details == {
        "text": "PASS",
        "token": "WORD",
        "line": 0,
        "loc": {"first_line": 1, "last_line": 1, "first_column": 16, "last_column": 19},
        "expected": ["'TO'", "'BLOCK'", "'ALLOW'"],
    }


def test_properties_are_checked_together():
    assert refusal("x", uuid="1", owner_uuid=VM, enabled=1, log="no", description="d" * 256) == [
        "Error at character 0: 'x', expected: 'FROM', found: word",
        "Invalid rule UUID",
        "enabled must be true or false",
        "log must be true or false",
        "description must be shorter than 255 characters",
    ]
    assert refusal() == ["owner_uuid required"]
    assert refusal(owner_uuid=VM, **{"global": True}) == [
        "cannot specify both global and owner_uuid"
    ]
    assert refusal(created_by=5, **{"global": "maybe"}) == [
        "created_by must be a string",
        "global must be true or false",
    ]


def test_serialized_form():
    rule = rules.Rule(
        {
            "rule": "FROM any TO all vms ALLOW ah",
            "uuid": VM,
            "owner_uuid": VM,
            "version": "1.2",
            "enabled": "true",
            "description": "d",
        }
    )
    assert list(rule.serialize().items()) == [
        ("description", "d"),
        ("enabled", "true"),
        ("log", False),
        ("owner_uuid", VM),
        ("rule", "FROM any TO all vms ALLOW ah"),
        ("uuid", VM),
        ("version", "1.2"),
    ]


def test_columns_count_utf16_units():
    assert lexer.text(lexer.units("a😀b")) == "a😀b"
    (said,) = refusal('FROM tag "😀" x', **{"global": True})
    assert said.startswith("Error at character 13: 'x'")


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        ("10.0.0.010", "10.0.0.10"),
        ("2001:DB8:0:0:1:0:0:0", "2001:db8:0:0:1::"),
        ("::", "::"),
        ("::ffff:10.0.0.1", "::ffff:10.0.0.1"),
        ("1:2:3:4:5:6:7:8", "1:2:3:4:5:6:7:8"),
    ],
)
def test_canonical_address(written, canonical):
    assert addresses.canonical(written) == canonical


@pytest.mark.parametrize("written", ["1.2.3", "1:2", "1::2::3", ":1::", "g::", "::1.2.3.4", "1:"])
def test_no_address(written):
    with pytest.raises(ValueError):
        addresses.parse(written)


def test_types_sort_as_the_old_engine_does():
    mixed = "(TYPE 3 CODE 1 AND TYPE 2)"
    assert text(f"FROM any TO all vms ALLOW icmp {mixed}").endswith(mixed)


@pytest.mark.parametrize("count", [1, 10, 11, 24, 100])
def test_long_lists_are_sorted(count):
    numbers = [(n * 37) % 101 for n in range(count)]
    assert sorting.by(numbers, lambda one, other: one - other) == sorted(numbers)
    same = sorting.by(numbers, lambda one, other: None)
    assert sorted(same) == sorted(numbers)
