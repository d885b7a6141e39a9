#!/usr/sbin/dtrace -s
/*
 * SPDX-License-Identifier: Apache-2.0
 *
 * Question: how long did each zone's reads and writes take, seen from the file system interface?
 *
 *	dtrace -s zone_vfs.d [PERIOD [FROM [UNTIL]]]
 *
 * PERIOD: seconds between two frames, 1 unless given. [FROM, UNTIL): what counts, in ns of the
 * node's high resolution clock, so that one run hands over to the next; everything if not given.
 *
 *	A|zone_vfs|ops|ZONENAME|FUNCTION|N	calls that ended
 *	A|zone_vfs|ns|ZONENAME|FUNCTION|N	their time, summed, in nanoseconds
 *	Q|zone_vfs|ns|ZONENAME|FUNCTION|	its distribution
 *
 * FUNCTION is fop_read or fop_write. A loopback mount calls them again from within themselves: only
 * the outermost call counts. The global zone is left out. These functions run for sockets and
 * devices too, so the sums are at least what zone_vfs:rlentime and zone_vfs:wlentime hold.
 * Keys: zones x 2. Cost: two probes a read or write: off unless asked for.
 * Error: a call per thread at the start; dynamic variable drops lose a call each.
 * Needs fbt::fop_read and fbt::fop_write, which are no stable interface.
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
	printf("H|zone_vfs|1|%d|%d\n", timestamp, walltimestamp);
	zone_vfs_period = $1 > 0 ? $1 : 1;
	zone_vfs_left = zone_vfs_period;
}

fbt::fop_read:entry,
fbt::fop_write:entry
/zonename != "global"/
{
	self->zone_vfs_depth++;
}

fbt::fop_read:entry,
fbt::fop_write:entry
/self->zone_vfs_depth == 1/
{
	self->zone_vfs_since = timestamp;
}

fbt::fop_read:return,
fbt::fop_write:return
/self->zone_vfs_depth == 1 && self->zone_vfs_since != 0 &&
    timestamp >= $2 && ($3 == 0 || timestamp < $3)/
{
	this->zone_vfs_ns = timestamp - self->zone_vfs_since;
	@zone_vfs_ops[zonename, probefunc] = count();
	@zone_vfs_ns[zonename, probefunc] = sum(this->zone_vfs_ns);
	@zone_vfs_ns_distribution[zonename, probefunc] = quantize(this->zone_vfs_ns);
}

fbt::fop_read:return,
fbt::fop_write:return
/self->zone_vfs_depth == 1/
{
	self->zone_vfs_since = 0;
}

fbt::fop_read:return,
fbt::fop_write:return
/self->zone_vfs_depth > 0/
{
	self->zone_vfs_depth--;
}

profile:::tick-1sec
{
	zone_vfs_left--;
}

profile:::tick-1sec
/zone_vfs_left <= 0/
{
	zone_vfs_left = zone_vfs_period;
	printf("S|zone_vfs|%d|%d\n", timestamp, walltimestamp);
	printa("A|zone_vfs|ops|%s|%s|%@d\n", @zone_vfs_ops);
	printa("A|zone_vfs|ns|%s|%s|%@d\n", @zone_vfs_ns);
	printa("Q|zone_vfs|ns|%s|%s|%@d\n", @zone_vfs_ns_distribution);
	printf("E|zone_vfs\n");
}

/* on exit dtrace prints in its own format what was never printed: a last frame leaves nothing */
dtrace:::END
{
	printf("S|zone_vfs|%d|%d\n", timestamp, walltimestamp);
	printa("A|zone_vfs|ops|%s|%s|%@d\n", @zone_vfs_ops);
	printa("A|zone_vfs|ns|%s|%s|%@d\n", @zone_vfs_ns);
	printa("Q|zone_vfs|ns|%s|%s|%@d\n", @zone_vfs_ns_distribution);
	printf("E|zone_vfs\n");
}
