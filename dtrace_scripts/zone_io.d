#!/usr/sbin/dtrace -s
/*
 * SPDX-License-Identifier: Apache-2.0
 *
 * Question: how many physical reads and writes did each zone have done for it, and how long did
 * they take?
 *
 *	dtrace -s zone_io.d [PERIOD [FROM [UNTIL]]]
 *
 * PERIOD: seconds between two frames, 1 unless given. [FROM, UNTIL): what counts, in ns of the
 * node's high resolution clock, so that one run hands over to the next; everything if not given.
 *
 *	A|zone_io|ops|ZONEID|TYPE|N		operations
 *	A|zone_io|us|ZONEID|TYPE|N		their latency, summed, in microseconds
 *	Q|zone_io|us|ZONEID|TYPE|		its distribution
 *
 * TYPE is ZFS's: 1 is a read, 2 a write. ZFS writes what was not synchronous on behalf of the
 * kernel: those writes count for zone 0. The key is the probe's own argument; the variable zonename
 * would name the zone that the completing interrupt disturbed.
 * Keys: zones x types, 1.2 KiB each within a second. Cost: one probe a physical operation.
 * Error: none but drops, which dtrace reports; at a hand-over one event for each CPU.
 * Needs sdt:::zfs-zone-latency, which SmartOS has and other illumos does not.
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
	printf("H|zone_io|1|%d|%d\n", timestamp, walltimestamp);
	zone_io_period = $1 > 0 ? $1 : 1;
	zone_io_left = zone_io_period;
}

sdt:::zfs-zone-latency
/timestamp >= $2 && ($3 == 0 || timestamp < $3)/
{
	@zone_io_ops[arg0, arg1] = count();
	@zone_io_us[arg0, arg1] = sum(arg2);
	@zone_io_us_distribution[arg0, arg1] = quantize(arg2);
}

profile:::tick-1sec
{
	zone_io_left--;
}

profile:::tick-1sec
/zone_io_left <= 0/
{
	zone_io_left = zone_io_period;
	printf("S|zone_io|%d|%d\n", timestamp, walltimestamp);
	printa("A|zone_io|ops|%d|%d|%@d\n", @zone_io_ops);
	printa("A|zone_io|us|%d|%d|%@d\n", @zone_io_us);
	printa("Q|zone_io|us|%d|%d|%@d\n", @zone_io_us_distribution);
	printf("E|zone_io\n");
}

/* on exit dtrace prints in its own format what was never printed: a last frame leaves nothing */
dtrace:::END
{
	printf("S|zone_io|%d|%d\n", timestamp, walltimestamp);
	printa("A|zone_io|ops|%d|%d|%@d\n", @zone_io_ops);
	printa("A|zone_io|us|%d|%d|%@d\n", @zone_io_us);
	printa("Q|zone_io|us|%d|%d|%@d\n", @zone_io_us_distribution);
	printf("E|zone_io\n");
}
