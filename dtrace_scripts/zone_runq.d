#!/usr/sbin/dtrace -s
/*
 * SPDX-License-Identifier: Apache-2.0
 *
 * Question: how long did each zone's threads wait for a CPU that was busy?
 *
 *	dtrace -s zone_runq.d [PERIOD [FROM [UNTIL]]]
 *
 * PERIOD: seconds between two frames, 1 unless given. [FROM, UNTIL): what counts, in ns of the
 * node's high resolution clock, so that one run hands over to the next; everything if not given.
 *
 *	A|zone_runq|waits|ZONEID|N		waits that ended
 *	A|zone_runq|ns|ZONEID|N		their time, summed, in nanoseconds
 *	Q|zone_runq|ns|ZONEID|		its distribution
 *
 * A wait begins when a thread is put on a run queue and ends when it is taken from it. Its start is
 * kept under the thread's address, which no other living thread has; ids would not tell kernel
 * threads apart. Waits under way when the run starts are not seen, so let a run that takes over
 * start before its window opens. To compare with zones:nsec_waitrq.
 * Keys: zones. Cost: two probes a context switch: off unless asked for.
 * Error: a wait per thread at the start; dynamic variable drops lose a wait each.
 * Needs the sched provider.
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
	printf("H|zone_runq|1|%d|%d\n", timestamp, walltimestamp);
	zone_runq_period = $1 > 0 ? $1 : 1;
	zone_runq_left = zone_runq_period;
}

sched:::enqueue
{
	zone_runq_since[args[0]->pr_addr] = timestamp;
}

sched:::dequeue
/zone_runq_since[args[0]->pr_addr] != 0 &&
    timestamp >= $2 && ($3 == 0 || timestamp < $3)/
{
	this->zone_runq_ns = timestamp - zone_runq_since[args[0]->pr_addr];
	@zone_runq_waits[args[1]->pr_zoneid] = count();
	@zone_runq_ns[args[1]->pr_zoneid] = sum(this->zone_runq_ns);
	@zone_runq_ns_distribution[args[1]->pr_zoneid] = quantize(this->zone_runq_ns);
}

sched:::dequeue
{
	zone_runq_since[args[0]->pr_addr] = 0;
}

profile:::tick-1sec
{
	zone_runq_left--;
}

profile:::tick-1sec
/zone_runq_left <= 0/
{
	zone_runq_left = zone_runq_period;
	printf("S|zone_runq|%d|%d\n", timestamp, walltimestamp);
	printa("A|zone_runq|waits|%d|%@d\n", @zone_runq_waits);
	printa("A|zone_runq|ns|%d|%@d\n", @zone_runq_ns);
	printa("Q|zone_runq|ns|%d|%@d\n", @zone_runq_ns_distribution);
	printf("E|zone_runq\n");
}

/* on exit dtrace prints in its own format what was never printed: a last frame leaves nothing */
dtrace:::END
{
	printf("S|zone_runq|%d|%d\n", timestamp, walltimestamp);
	printa("A|zone_runq|waits|%d|%@d\n", @zone_runq_waits);
	printa("A|zone_runq|ns|%d|%@d\n", @zone_runq_ns);
	printa("Q|zone_runq|ns|%d|%@d\n", @zone_runq_ns_distribution);
	printf("E|zone_runq\n");
}
