#!/usr/sbin/dtrace -s
/*
 * SPDX-License-Identifier: Apache-2.0
 *
 * Question: how many physical reads and writes did each zone have done for it, and how long did they take?
 *
 *	dtrace -s zone_io.d [PERIOD [FROM [UNTIL]]]
 *
 * PERIOD is the number of seconds between two frames, 1 unless given. FROM and UNTIL bound what is counted, in
 * nanoseconds of the node's high resolution clock, so that one run can hand over to the next without counting twice;
 * without them everything counts.
 *
 * The answer comes in frames, one line a value, fields divided by "|":
 *
 *	H|zone_io 1|HRTIME|WALL		first line: the format, both clocks in nanoseconds
 *	S|HRTIME|WALL			a frame begins
 *	A|ops|ZONEID|TYPE|N		operations so far
 *	A|us|ZONEID|TYPE|N		their latency so far, summed, in microseconds
 *	Q|us|ZONEID|TYPE|		its distribution, dtrace's own table on the lines that follow
 *	E				the frame is whole; one without it was cut off and must not be used
 *
 * TYPE is ZFS's: 1 is a read, 2 a write. Values only grow while the script runs, so a frame that is lost costs resolution
 * and no usage. ZFS writes what was not synchronous on behalf of the kernel: those writes are counted for zone 0. The id of
 * a zone changes whenever it boots; take it from "zoneadm list -p" while the script runs. The key is the probe's own
 * argument: the variable zonename would name the zone that the completing interrupt disturbed.
 */

#pragma D option quiet
#pragma D option defaultargs
/* enough for some 200 zones that do I/O within a second; on a node with 64 CPUs the defaults would take 512 MB */
#pragma D option aggsize=512k
#pragma D option bufsize=64k
#pragma D option aggrate=1hz
#pragma D option switchrate=1hz
#pragma D option aggsortkey

dtrace:::BEGIN
{
	printf("H|zone_io 1|%d|%d\n", timestamp, walltimestamp);
	period = $1 > 0 ? $1 : 1;
	left = period;
}

sdt:::zfs-zone-latency
/timestamp >= $2 && ($3 == 0 || timestamp < $3)/
{
	@ops[arg0, arg1] = count();
	@us[arg0, arg1] = sum(arg2);
	@distribution[arg0, arg1] = quantize(arg2);
}

profile:::tick-1sec
{
	left--;
}

profile:::tick-1sec
/left <= 0/
{
	left = period;
	printf("S|%d|%d\n", timestamp, walltimestamp);
	printa("A|ops|%d|%d|%@d\n", @ops);
	printa("A|us|%d|%d|%@d\n", @us);
	printa("Q|us|%d|%d|%@d\n", @distribution);
	printf("E\n");
}

/* dtrace prints on exit whatever was never printed: give it the frame, so that nothing comes unframed */
dtrace:::END
{
	printf("S|%d|%d\n", timestamp, walltimestamp);
	printa("A|ops|%d|%d|%@d\n", @ops);
	printa("A|us|%d|%d|%@d\n", @us);
	printa("Q|us|%d|%d|%@d\n", @distribution);
	printf("E\n");
}
