/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef FL_PENDING_H
#define FL_PENDING_H

#include "maps.h"

/*
 * When a flow by itself last had a SYN: its first packets look for it among the
 * flows that are not confirmed, others need not.
 */

/* The byte of a flow's hash in fl_pending. */
static __always_inline __u8 *flow_pending(__u32 hash)
{
	__u32 line = hash / 64 % (PENDING / 64);
	struct pending_line *l = bpf_map_lookup_elem(&fl_pending, &line);

	return l ? &l->syn[hash % 64] : NULL;
}

/*
 * The time in units of 1024 jiffies (1 to 10 seconds, by HZ), never 0. A byte of
 * it comes again every few minutes; a stale one costs a lookup and no more.
 */
static __always_inline __u8 pending_now(void)
{
	return (bpf_jiffies64() >> 10 & 0x7f) | 0x80;
}

/* Is this the time of a SYN at most one to two units ago? */
static __always_inline bool pending_fresh(__u8 since)
{
	return since && ((pending_now() - since) & 0x7f) <= 1;
}

#endif
