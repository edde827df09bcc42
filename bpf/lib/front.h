/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef FL_FRONT_H
#define FL_FRONT_H

#include "pkt.h"

/*
 * Direct services of which nothing but the table has to be known: no rules, no
 * older tables, never asleep. What fl_services says of them stands here as well,
 * in one cache line, where the hash takes three. The agent takes an entry out
 * before it changes the service there, and puts it back after: so an entry says
 * what the service says, or is not there. Its place rests for a second before
 * another service gets it: who read what it is reads its table a moment later.
 */

/* Of the hash to the line. */
volatile const __u32 front_shift;

/* What one service is, as front_find found it. */
struct front_read {
	__u32 id;
	__u32 base;
	__u32 len; /* 0: nothing was found */
};

static __always_inline struct front_read front_find(const struct addr *vip, __be16 port)
{
	__u32 i = hash_end(vip, port) >> front_shift;
	struct front_line *l = bpf_map_lookup_elem(&fl_fronts, &i);
	struct front_read out = {};

	for (int n = 0; l && n < FRONTS_PER_LINE; n++) {
		const volatile struct front *f = &l->entry[n];
		__u64 what = f->what, table;

		if ((__u32)what != (FRONT_USED | port) || !addr_equal((const struct addr *)&f->vip, vip))
			continue;
		table = f->table;
		if (f->what != what)
			break;
		out.id = what >> 32;
		out.base = table;
		out.len = table >> 32;
		break;
	}
	return out;
}

#endif
