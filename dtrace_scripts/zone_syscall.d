#!/usr/sbin/dtrace -s
/*
 * SPDX-License-Identifier: Apache-2.0
 *
 * Question: how many system calls did each zone make, and how many failed with which error?
 *
 *	dtrace -s zone_syscall.d [PERIOD [FROM [UNTIL]]]
 *
 * PERIOD: seconds between two frames, 1 unless given. [FROM, UNTIL): what counts, in ns of the
 * node's high resolution clock, so that one run hands over to the next; everything if not given.
 *
 *	A|zone_syscall|calls|ZONENAME|N	system calls begun
 *	A|zone_syscall|errors|ZONENAME|ERRNO|N	system calls that returned this error
 *
 * ERRNO is the number of /usr/include/sys/errno.h, for processes of an lx zone too.
 * Keys: zones x errors. Cost: two probes every system call of the node: off unless asked for.
 * Error: none but drops; at a hand-over one event for each CPU.
 * Needs the syscall provider.
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
	printf("H|zone_syscall|1|%d|%d\n", timestamp, walltimestamp);
	zone_syscall_period = $1 > 0 ? $1 : 1;
	zone_syscall_left = zone_syscall_period;
}

syscall:::entry
/timestamp >= $2 && ($3 == 0 || timestamp < $3)/
{
	@zone_syscall_calls[zonename] = count();
}

syscall:::return
/errno != 0 &&
    timestamp >= $2 && ($3 == 0 || timestamp < $3)/
{
	@zone_syscall_errors[zonename, errno] = count();
}

profile:::tick-1sec
{
	zone_syscall_left--;
}

profile:::tick-1sec
/zone_syscall_left <= 0/
{
	zone_syscall_left = zone_syscall_period;
	printf("S|zone_syscall|%d|%d\n", timestamp, walltimestamp);
	printa("A|zone_syscall|calls|%s|%@d\n", @zone_syscall_calls);
	printa("A|zone_syscall|errors|%s|%d|%@d\n", @zone_syscall_errors);
	printf("E|zone_syscall\n");
}

/* on exit dtrace prints in its own format what was never printed: a last frame leaves nothing */
dtrace:::END
{
	printf("S|zone_syscall|%d|%d\n", timestamp, walltimestamp);
	printa("A|zone_syscall|calls|%s|%@d\n", @zone_syscall_calls);
	printa("A|zone_syscall|errors|%s|%d|%@d\n", @zone_syscall_errors);
	printf("E|zone_syscall\n");
}
