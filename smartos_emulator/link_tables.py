# SPDX-License-Identifier: Apache-2.0
"""dladm's tables: the columns it shows, the properties links have, the options it takes."""

NONE = "--"
SHOWN = {
    "show-link": {"LINK": 12, "CLASS": 10, "MTU": 7, "STATE": 9, "BRIDGE": 11, "OVER": 30},
    "show-phys": {
        "LINK": 13,
        "MEDIA": 21,
        "STATE": 11,
        "SPEED": 7,
        "DUPLEX": 10,
        "DEVICE": 12,
    },
    "show-phys -m": {"LINK": 13, "SLOT": 9, "ADDRESS": 19, "INUSE": 5, "CLIENT": 12},
    "show-vnic": {
        "LINK": 13,
        "OVER": 11,
        "SPEED": 6,
        "MACADDRESS": 18,
        "MACADDRTYPE": 12,
        "VID": 5,
        "ZONE": 20,
    },
    "show-aggr": {
        "LINK": 16,
        "POLICY": 9,
        "ADDRPOLICY": 21,
        "LACPACTIVITY": 14,
        "LACPTIMER": 12,
        "FLAGS": 20,
    },
    "show-aggr -x": {
        "LINK": 12,
        "PORT": 15,
        "SPEED": 5,
        "DUPLEX": 10,
        "STATE": 10,
        "ADDRESS": 19,
        "PORTSTATE": 16,
    },
    "show-etherstub": {"LINK": 13, "ZONE": 20},
    "show-linkprop": {
        "LINK": 13,
        "PROPERTY": 16,
        "PERM": 5,
        "VALUE": 15,
        "DEFAULT": 15,
        "POSSIBLE": 20,
    },
}
# What can be asked for besides what is shown unasked.
EXTRA = {"show-link": ("ZONE",), "show-phys": ("VLAN",), "show-vnic": ("VNIC", "MTU")}

# Property: permission, default, possible values.
PROPERTIES = {
    "autopush": ("rw", NONE, NONE),
    "zone": ("rw", NONE, NONE),
    "state": ("r-", "up", "up,down"),
    "mtu": ("rw", "1500", "576-9000"),
    "maxbw": ("rw", NONE, NONE),
    "cpus": ("rw", NONE, NONE),
    "pool": ("rw", NONE, NONE),
    "priority": ("rw", "medium", "low,medium,high"),
    "tagmode": ("rw", "vlanonly", "normal,vlanonly"),
    "protection": ("rw", NONE, "mac-nospoof,restricted,ip-nospoof,dhcp-nospoof"),
    "promisc-filtered": ("rw", "on", "off,on"),
    "allowed-ips": ("rw", NONE, NONE),
    "allowed-dhcp-cids": ("rw", NONE, NONE),
    "dynamic-methods": ("rw", NONE, "dhcpv4,dhcpv6,slaac"),
    "rxrings": ("rw", NONE, NONE),
    "txrings": ("rw", NONE, NONE),
}

LONG = {"--parsable": "-p", "--parseable": "-p", "--output": "-o", "--mac": "-m", "--zone": "-z"}
_NAMES = ["parsable", "parseable", "output=", "zone="]
OPTIONS: dict[str, tuple[str, list[str]]] = {
    "show-link": ("pPo:s:i:z:Z", _NAMES),
    "show-phys": ("pPHmLo:", [*_NAMES, "mac"]),
    "show-vnic": ("pPo:l:s:i:z:Z", _NAMES),
    "show-aggr": ("pPxLo:s:i:", _NAMES),
    "show-etherstub": ("pto:z:Z", _NAMES),
    "show-linkprop": ("cPo:p:z:", [*_NAMES, "prop="]),
    "set-linkprop": ("tR:p:z:", ["prop="]),
    "reset-linkprop": ("tR:p:z:", ["prop="]),
    "create-vnic": ("tl:m:v:p:R:n:u:z:", []),
    "delete-vnic": ("tR:z:", []),
    "create-etherstub": ("tR:z:", []),
    "delete-etherstub": ("tR:z:", []),
}
