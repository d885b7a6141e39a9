#!/usr/sbin/dtrace -s
/*
 * SPDX-License-Identifier: Apache-2.0
 *
 * Question: how much did each zone send to and receive from inside and outside?
 *
 *	dtrace -s zone_net.d [PERIOD [FROM [UNTIL]]]
 *
 * PERIOD: seconds between two frames, 1 unless given. [FROM, UNTIL): what counts, in ns of the
 * node's high resolution clock, so that one run hands over to the next; everything if not given.
 *
 *	A|zone_net|bytes|ZONEID|CLASS|DIR|N	payload of IP packets, headers of IP left out
 *	A|zone_net|packets|ZONEID|CLASS|DIR|N	those packets
 *
 * CLASS is the remote's: internal (RFC 1918, link local, carrier-grade NAT), external (other IPv4)
 * or ipv6. DIR is in or out. ZONEID is the id of the IP stack, which is the zone's id where a zone
 * has a stack of its own, as all zones of SmartOS do. What stays inside the node's stack is left
 * out. A packet that the link cuts into several counts as one, its bytes are whole.
 * To compare with link:obytes64 and rbytes64 less 34 bytes a packet of IPv4, and less ARP.
 * HVM guests bypass this: their packets never meet the node's IP.
 * Keys: zones x 3 x 2. Cost: one probe a packet.
 * Error: none but drops; at a hand-over one event for each CPU.
 * Needs the ip provider.
 */

#pragma D option quiet
#pragma D option defaultargs
#pragma D option strsize=64
#pragma D option aggsize=512k
#pragma D option bufsize=128k
#pragma D option aggrate=4hz
#pragma D option switchrate=4hz
#pragma D option aggsortkey

/* what is internal: network and mask in host byte order, for an operator to change */
inline uint32_t ZONE_NET_RFC1918_A = 0x0a000000;	/* 10.0.0.0/8 */
inline uint32_t ZONE_NET_RFC1918_A_MASK = 0xff000000;
inline uint32_t ZONE_NET_RFC1918_B = 0xac100000;	/* 172.16.0.0/12 */
inline uint32_t ZONE_NET_RFC1918_B_MASK = 0xfff00000;
inline uint32_t ZONE_NET_RFC1918_C = 0xc0a80000;	/* 192.168.0.0/16 */
inline uint32_t ZONE_NET_RFC1918_C_MASK = 0xffff0000;
inline uint32_t ZONE_NET_LINK_LOCAL = 0xa9fe0000;	/* 169.254.0.0/16 */
inline uint32_t ZONE_NET_LINK_LOCAL_MASK = 0xffff0000;
inline uint32_t ZONE_NET_CGN = 0x64400000;		/* 100.64.0.0/10 */
inline uint32_t ZONE_NET_CGN_MASK = 0xffc00000;

dtrace:::BEGIN
{
	printf("H|zone_net|1|%d|%d\n", timestamp, walltimestamp);
	zone_net_period = $1 > 0 ? $1 : 1;
	zone_net_left = zone_net_period;
}

ip:::send
/args[2]->ip_ver == 4 && !args[3]->if_local &&
    timestamp >= $2 && ($3 == 0 || timestamp < $3)/
{
	this->zone_net_remote = ntohl(args[4]->ipv4_dst);
	this->zone_net_class =
	    (this->zone_net_remote & ZONE_NET_RFC1918_A_MASK) == ZONE_NET_RFC1918_A ||
	    (this->zone_net_remote & ZONE_NET_RFC1918_B_MASK) == ZONE_NET_RFC1918_B ||
	    (this->zone_net_remote & ZONE_NET_RFC1918_C_MASK) == ZONE_NET_RFC1918_C ||
	    (this->zone_net_remote & ZONE_NET_LINK_LOCAL_MASK) == ZONE_NET_LINK_LOCAL ||
	    (this->zone_net_remote & ZONE_NET_CGN_MASK) == ZONE_NET_CGN ? "internal" : "external";
	@zone_net_bytes[args[3]->if_ipstack, this->zone_net_class, "out"] =
	    sum(args[2]->ip_plength);
	@zone_net_packets[args[3]->if_ipstack, this->zone_net_class, "out"] = count();
}

ip:::send
/args[2]->ip_ver == 6 && !args[3]->if_local &&
    timestamp >= $2 && ($3 == 0 || timestamp < $3)/
{
	@zone_net_bytes[args[3]->if_ipstack, "ipv6", "out"] = sum(args[2]->ip_plength);
	@zone_net_packets[args[3]->if_ipstack, "ipv6", "out"] = count();
}

ip:::receive
/args[2]->ip_ver == 4 && !args[3]->if_local &&
    timestamp >= $2 && ($3 == 0 || timestamp < $3)/
{
	this->zone_net_remote = ntohl(args[4]->ipv4_src);
	this->zone_net_class =
	    (this->zone_net_remote & ZONE_NET_RFC1918_A_MASK) == ZONE_NET_RFC1918_A ||
	    (this->zone_net_remote & ZONE_NET_RFC1918_B_MASK) == ZONE_NET_RFC1918_B ||
	    (this->zone_net_remote & ZONE_NET_RFC1918_C_MASK) == ZONE_NET_RFC1918_C ||
	    (this->zone_net_remote & ZONE_NET_LINK_LOCAL_MASK) == ZONE_NET_LINK_LOCAL ||
	    (this->zone_net_remote & ZONE_NET_CGN_MASK) == ZONE_NET_CGN ? "internal" : "external";
	@zone_net_bytes[args[3]->if_ipstack, this->zone_net_class, "in"] =
	    sum(args[2]->ip_plength);
	@zone_net_packets[args[3]->if_ipstack, this->zone_net_class, "in"] = count();
}

ip:::receive
/args[2]->ip_ver == 6 && !args[3]->if_local &&
    timestamp >= $2 && ($3 == 0 || timestamp < $3)/
{
	@zone_net_bytes[args[3]->if_ipstack, "ipv6", "in"] = sum(args[2]->ip_plength);
	@zone_net_packets[args[3]->if_ipstack, "ipv6", "in"] = count();
}

profile:::tick-1sec
{
	zone_net_left--;
}

profile:::tick-1sec
/zone_net_left <= 0/
{
	zone_net_left = zone_net_period;
	printf("S|zone_net|%d|%d\n", timestamp, walltimestamp);
	printa("A|zone_net|bytes|%d|%s|%s|%@d\n", @zone_net_bytes);
	printa("A|zone_net|packets|%d|%s|%s|%@d\n", @zone_net_packets);
	printf("E|zone_net\n");
}

/* on exit dtrace prints in its own format what was never printed: a last frame leaves nothing */
dtrace:::END
{
	printf("S|zone_net|%d|%d\n", timestamp, walltimestamp);
	printa("A|zone_net|bytes|%d|%s|%s|%@d\n", @zone_net_bytes);
	printa("A|zone_net|packets|%d|%s|%s|%@d\n", @zone_net_packets);
	printf("E|zone_net\n");
}
