#!/usr/sbin/dtrace -s
/*
 * SPDX-License-Identifier: Apache-2.0
 *
 * Question: for how long at a time did each zone's threads run on a CPU?
 *
 *	dtrace -s zone_cpu.d [PERIOD [FROM [UNTIL]]]
 *
 * PERIOD: seconds between two frames, 1 unless given. [FROM, UNTIL): what counts, in ns of the
 * node's high resolution clock, so that one run hands over to the next; everything if not given.
 *
 *	A|zone_cpu|bursts|ZONENAME|N	times that a thread left a CPU
 *	A|zone_cpu|ns|ZONENAME|N		their time on it, summed, in nanoseconds
 *	A|zone_cpu|samples|ZONENAME|N	a control: samples taken 997 times a second on each CPU
 *	Q|zone_cpu|ns|ZONENAME|		the distribution of that time
 *
 * Never bill from this: a thread counts when it leaves the CPU, and one that never does is not
 * counted at all. Bill from zones:nsec_user and zones:nsec_sys, to compare with ns here and with
 * samples / 997 s. An idle CPU counts for the global zone.
 * Keys: zones. Cost: two probes a context switch, 997 a second on each CPU: off unless asked for.
 * Error: threads on a CPU at the start and at the end; dynamic variable drops lose a burst each.
 * Needs the sched and profile providers.
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
	printf("H|zone_cpu|1|%d|%d\n", timestamp, walltimestamp);
	zone_cpu_period = $1 > 0 ? $1 : 1;
	zone_cpu_left = zone_cpu_period;
}

sched:::on-cpu
{
	self->zone_cpu_since = timestamp;
}

sched:::off-cpu
/self->zone_cpu_since != 0 &&
    timestamp >= $2 && ($3 == 0 || timestamp < $3)/
{
	this->zone_cpu_ns = timestamp - self->zone_cpu_since;
	@zone_cpu_bursts[zonename] = count();
	@zone_cpu_ns[zonename] = sum(this->zone_cpu_ns);
	@zone_cpu_ns_distribution[zonename] = quantize(this->zone_cpu_ns);
}

sched:::off-cpu
{
	self->zone_cpu_since = 0;
}

profile:::profile-997
/timestamp >= $2 && ($3 == 0 || timestamp < $3)/
{
	@zone_cpu_samples[zonename] = count();
}

profile:::tick-1sec
{
	zone_cpu_left--;
}

profile:::tick-1sec
/zone_cpu_left <= 0/
{
	zone_cpu_left = zone_cpu_period;
	printf("S|zone_cpu|%d|%d\n", timestamp, walltimestamp);
	printa("A|zone_cpu|bursts|%s|%@d\n", @zone_cpu_bursts);
	printa("A|zone_cpu|ns|%s|%@d\n", @zone_cpu_ns);
	printa("A|zone_cpu|samples|%s|%@d\n", @zone_cpu_samples);
	printa("Q|zone_cpu|ns|%s|%@d\n", @zone_cpu_ns_distribution);
	printf("E|zone_cpu\n");
}

/* on exit dtrace prints in its own format what was never printed: a last frame leaves nothing */
dtrace:::END
{
	printf("S|zone_cpu|%d|%d\n", timestamp, walltimestamp);
	printa("A|zone_cpu|bursts|%s|%@d\n", @zone_cpu_bursts);
	printa("A|zone_cpu|ns|%s|%@d\n", @zone_cpu_ns);
	printa("A|zone_cpu|samples|%s|%@d\n", @zone_cpu_samples);
	printa("Q|zone_cpu|ns|%s|%@d\n", @zone_cpu_ns_distribution);
	printf("E|zone_cpu\n");
}
