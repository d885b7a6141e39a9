#!/usr/sbin/dtrace -s
/*
 * SPDX-License-Identifier: Apache-2.0
 *
 * Question: how long did each zone's threads sleep because the zone had used up its CPU cap?
 *
 *	dtrace -s zone_capwait.d [PERIOD [FROM [UNTIL]]]
 *
 * PERIOD: seconds between two frames, 1 unless given. [FROM, UNTIL): what counts, in ns of the
 * node's high resolution clock, so that one run hands over to the next; everything if not given.
 *
 *	A|zone_capwait|waits|ZONEID|N	sleeps that ended
 *	A|zone_capwait|ns|ZONEID|N		their time, summed, in nanoseconds
 *	Q|zone_capwait|ns|ZONEID|		its distribution
 *
 * The start of a sleep is kept under the thread's address. Sleeps under way when the run starts are
 * not seen, so let a run that takes over start before its window opens.
 * Keys: zones. Cost: two probes a sleep, of zones at their cap only.
 * Error: a sleep per thread at the start; dynamic variable drops lose a sleep each.
 * Needs sched:::cpucaps-sleep and sched:::cpucaps-wakeup.
 */

#pragma D option quiet
#pragma D option defaultargs
#pragma D option strsize=64
#pragma D option aggsize=512k
#pragma D option bufsize=128k
#pragma D option dynvarsize=16m
#pragma D option cleanrate=101hz
#pragma D option aggrate=4hz
#pragma D option switchrate=4hz
#pragma D option aggsortkey

dtrace:::BEGIN
{
	printf("H|zone_capwait|1|%d|%d\n", timestamp, walltimestamp);
	zone_capwait_period = $1 > 0 ? $1 : 1;
	zone_capwait_left = zone_capwait_period;
}

sched:::cpucaps-sleep
{
	zone_capwait_since[args[0]->pr_addr] = timestamp;
}

sched:::cpucaps-wakeup
/zone_capwait_since[args[0]->pr_addr] != 0 &&
    timestamp >= $2 && ($3 == 0 || timestamp < $3)/
{
	this->zone_capwait_ns = timestamp - zone_capwait_since[args[0]->pr_addr];
	@zone_capwait_waits[args[1]->pr_zoneid] = count();
	@zone_capwait_ns[args[1]->pr_zoneid] = sum(this->zone_capwait_ns);
	@zone_capwait_ns_distribution[args[1]->pr_zoneid] = quantize(this->zone_capwait_ns);
}

sched:::cpucaps-wakeup
{
	zone_capwait_since[args[0]->pr_addr] = 0;
}

profile:::tick-1sec
{
	zone_capwait_left--;
}

profile:::tick-1sec
/zone_capwait_left <= 0/
{
	zone_capwait_left = zone_capwait_period;
	printf("S|zone_capwait|%d|%d\n", timestamp, walltimestamp);
	printa("A|zone_capwait|waits|%d|%@d\n", @zone_capwait_waits);
	printa("A|zone_capwait|ns|%d|%@d\n", @zone_capwait_ns);
	printa("Q|zone_capwait|ns|%d|%@d\n", @zone_capwait_ns_distribution);
	printf("E|zone_capwait\n");
}

/* on exit dtrace prints in its own format what was never printed: a last frame leaves nothing */
dtrace:::END
{
	printf("S|zone_capwait|%d|%d\n", timestamp, walltimestamp);
	printa("A|zone_capwait|waits|%d|%@d\n", @zone_capwait_waits);
	printa("A|zone_capwait|ns|%d|%@d\n", @zone_capwait_ns);
	printa("Q|zone_capwait|ns|%d|%@d\n", @zone_capwait_ns_distribution);
	printf("E|zone_capwait\n");
}
