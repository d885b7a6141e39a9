#!/usr/sbin/dtrace -s
/*
 * SPDX-License-Identifier: Apache-2.0
 *
 * Question: how many TCP segments did each zone have to send again, to inside and outside?
 *
 *	dtrace -s zone_tcp.d [PERIOD [FROM [UNTIL]]]
 *
 * PERIOD: seconds between two frames, 1 unless given. [FROM, UNTIL): what counts, in ns of the
 * node's high resolution clock, so that one run hands over to the next; everything if not given.
 *
 *	A|zone_tcp|retransmits|ZONEID|CLASS|N
 *
 * CLASS is the remote's, as zone_net.d has it: internal, external or ipv6. The zone is that of the
 * connection: a retransmission runs from a timer, where the variable zonename is the global zone.
 * To compare with the tcp kstat's retransSegs of each zone; where a platform keeps the zone id of a
 * connection only within its IP stack, all of it counts for zone 0 and that comparison shows it.
 * The address is text here, since no translator has its number; a retransmission is rare.
 * Keys: zones x 3. Cost: one predicate a segment sent.
 * Error: none but drops; at a hand-over one event for each CPU.
 * Needs the tcp provider, and the member cs_zoneid, which its older translators lack.
 */

#pragma D option quiet
#pragma D option defaultargs
#pragma D option strsize=64
#pragma D option aggsize=512k
#pragma D option bufsize=128k
#pragma D option aggrate=4hz
#pragma D option switchrate=4hz
#pragma D option aggsortkey

dtrace:::BEGIN
{
	printf("H|zone_tcp|1|%d|%d\n", timestamp, walltimestamp);
	zone_tcp_period = $1 > 0 ? $1 : 1;
	zone_tcp_left = zone_tcp_period;
}

tcp:::send
/args[3]->tcps_retransmit && args[2]->ip_ver == 4 &&
    timestamp >= $2 && ($3 == 0 || timestamp < $3)/
{
	/* an octet of two digits is followed by a dot at 6, one of three at 7 */
	this->zone_tcp_to = args[2]->ip_daddr;
	this->zone_tcp_class =
	    this->zone_tcp_to >= "10." && this->zone_tcp_to < "10/" ||
	    this->zone_tcp_to >= "172.16." && this->zone_tcp_to < "172.32" &&
	    substr(this->zone_tcp_to, 6, 1) == "." ||
	    this->zone_tcp_to >= "192.168." && this->zone_tcp_to < "192.168/" ||
	    this->zone_tcp_to >= "169.254." && this->zone_tcp_to < "169.254/" ||
	    this->zone_tcp_to >= "100.64." && this->zone_tcp_to < "100.:" &&
	    substr(this->zone_tcp_to, 6, 1) == "." ||
	    this->zone_tcp_to >= "100.100." && this->zone_tcp_to < "100.128" &&
	    substr(this->zone_tcp_to, 7, 1) == "." ? "internal" : "external";
	@zone_tcp_retransmits[args[1]->cs_zoneid, this->zone_tcp_class] = count();
}

tcp:::send
/args[3]->tcps_retransmit && args[2]->ip_ver == 6 &&
    timestamp >= $2 && ($3 == 0 || timestamp < $3)/
{
	@zone_tcp_retransmits[args[1]->cs_zoneid, "ipv6"] = count();
}

profile:::tick-1sec
{
	zone_tcp_left--;
}

profile:::tick-1sec
/zone_tcp_left <= 0/
{
	zone_tcp_left = zone_tcp_period;
	printf("S|zone_tcp|%d|%d\n", timestamp, walltimestamp);
	printa("A|zone_tcp|retransmits|%d|%s|%@d\n", @zone_tcp_retransmits);
	printf("E|zone_tcp\n");
}

/* on exit dtrace prints in its own format what was never printed: a last frame leaves nothing */
dtrace:::END
{
	printf("S|zone_tcp|%d|%d\n", timestamp, walltimestamp);
	printa("A|zone_tcp|retransmits|%d|%s|%@d\n", @zone_tcp_retransmits);
	printf("E|zone_tcp\n");
}
