#!/usr/sbin/dtrace -s
/*
 * SPDX-License-Identifier: Apache-2.0
 *
 * Question: how often and how long did the I/O throttle hold up each zone?
 *
 *	dtrace -s zone_throttle.d [PERIOD [FROM [UNTIL]]]
 *
 * PERIOD: seconds between two frames, 1 unless given. [FROM, UNTIL): what counts, in ns of the
 * node's high resolution clock, so that one run hands over to the next; everything if not given.
 *
 *	A|zone_throttle|ops|ZONEID|IOP|N	operations that were delayed
 *	A|zone_throttle|us|ZONEID|IOP|N	their delay, summed, in microseconds
 *	Q|zone_throttle|us|ZONEID|		its distribution
 *
 * IOP is ZFS's: 0 is a read, 1 a physical write, 2 a logical write. The sums over IOP are what
 * zone_vfs:delay_cnt and zone_vfs:delay_time count: their ratio audits this whole path.
 * Keys: zones x operations. Cost: one probe a delayed operation, which waits anyway.
 * Error: none but drops; at a hand-over one event for each CPU.
 * Needs sdt:::zfs-zone-wait, which SmartOS has and other illumos does not.
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
	printf("H|zone_throttle|1|%d|%d\n", timestamp, walltimestamp);
	zone_throttle_period = $1 > 0 ? $1 : 1;
	zone_throttle_left = zone_throttle_period;
}

sdt:::zfs-zone-wait
/timestamp >= $2 && ($3 == 0 || timestamp < $3)/
{
	@zone_throttle_ops[arg0, arg1] = count();
	@zone_throttle_us[arg0, arg1] = sum(arg2);
	@zone_throttle_us_distribution[arg0] = quantize(arg2);
}

profile:::tick-1sec
{
	zone_throttle_left--;
}

profile:::tick-1sec
/zone_throttle_left <= 0/
{
	zone_throttle_left = zone_throttle_period;
	printf("S|zone_throttle|%d|%d\n", timestamp, walltimestamp);
	printa("A|zone_throttle|ops|%d|%d|%@d\n", @zone_throttle_ops);
	printa("A|zone_throttle|us|%d|%d|%@d\n", @zone_throttle_us);
	printa("Q|zone_throttle|us|%d|%@d\n", @zone_throttle_us_distribution);
	printf("E|zone_throttle\n");
}

/* on exit dtrace prints in its own format what was never printed: a last frame leaves nothing */
dtrace:::END
{
	printf("S|zone_throttle|%d|%d\n", timestamp, walltimestamp);
	printa("A|zone_throttle|ops|%d|%d|%@d\n", @zone_throttle_ops);
	printa("A|zone_throttle|us|%d|%d|%@d\n", @zone_throttle_us);
	printa("Q|zone_throttle|us|%d|%@d\n", @zone_throttle_us_distribution);
	printf("E|zone_throttle\n");
}
