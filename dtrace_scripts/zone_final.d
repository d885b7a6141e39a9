#!/usr/sbin/dtrace -s
/*
 * SPDX-License-Identifier: Apache-2.0
 *
 * Question: what did the counters of a zone hold when it went away?
 *
 *	dtrace -s zone_final.d [PERIOD [FROM [UNTIL]]]
 *
 * PERIOD: seconds between two frames, 1 unless given. [FROM, UNTIL): what counts, in ns of the
 * node's high resolution clock, so that one run hands over to the next; everything if not given.
 *
 *	F|zone_final|ZONENAME|ZONEID|HRTIME|WALL|NAME=N|...	one line a zone, outside frames
 *	A|zone_final|zones|N				lines of that kind so far
 *
 * A zone's kstats go with it, and what it used since they were last read would go unseen. NAME is a
 * statistic's of the modules zones and zone_vfs. A name that ends in _raw is in ticks of the node's
 * clock, as the kernel keeps it; the kstats scale it to nanoseconds by one ratio, which stays the
 * same while the node is up and is 1 where a tick is a nanosecond.
 * Fewer lines than zones means that dtrace dropped some.
 * Keys: none. Cost: one probe a zone that stops.
 * Error: none; a line is whole or not there.
 * Needs fbt::zone_kstat_delete, which a compiler may have inlined, and these fields of zone_t, some
 * of which platforms keep for each CPU. Where it lacks them, the last reading before the driver
 * stops a zone is all there is. The ledger takes what is no time: it does not know that ratio.
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
	printf("H|zone_final|1|%d|%d\n", timestamp, walltimestamp);
	zone_final_period = $1 > 0 ? $1 : 1;
	zone_final_left = zone_final_period;
}

fbt::zone_kstat_delete:entry
/timestamp >= $2 && ($3 == 0 || timestamp < $3)/
{
	printf("F|zone_final|%s|%d|%d|%d|", stringof(args[0]->zone_name), args[0]->zone_id,
	    timestamp, walltimestamp);
	printf("nsec_user_raw=%d|nsec_sys_raw=%d|nsec_waitrq_raw=%d|", args[0]->zone_utime,
	    args[0]->zone_stime, args[0]->zone_wtime);
	printf("nread=%d|reads=%d|rlentime_raw=%d|", args[0]->zone_vfs_rwstats.nread,
	    args[0]->zone_vfs_rwstats.reads, args[0]->zone_vfs_rwstats.rlentime);
	printf("nwritten=%d|writes=%d|wlentime_raw=%d\n", args[0]->zone_vfs_rwstats.nwritten,
	    args[0]->zone_vfs_rwstats.writes, args[0]->zone_vfs_rwstats.wlentime);
	@zone_final_zones = count();
}

profile:::tick-1sec
{
	zone_final_left--;
}

profile:::tick-1sec
/zone_final_left <= 0/
{
	zone_final_left = zone_final_period;
	printf("S|zone_final|%d|%d\n", timestamp, walltimestamp);
	printa("A|zone_final|zones|%@d\n", @zone_final_zones);
	printf("E|zone_final\n");
}

/* on exit dtrace prints in its own format what was never printed: a last frame leaves nothing */
dtrace:::END
{
	printf("S|zone_final|%d|%d\n", timestamp, walltimestamp);
	printa("A|zone_final|zones|%@d\n", @zone_final_zones);
	printf("E|zone_final\n");
}
