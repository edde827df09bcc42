/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef FL_STATS_H
#define FL_STATS_H

#include "pkt.h"
#include "trace.h"

static __always_inline void count_reason(const struct pkt *p, enum reason r)
{
	__u32 i = p->slot * STAT_REASONS + r;
	__u64 *n = bpf_map_lookup_elem(&fl_stats, &i);

	if (n)
		(*n)++;
}

/* Counts the packet at hand, which leaves, and tells who watches. */
static __always_inline void count(const struct pkt *p, enum reason r)
{
	count_reason(p, r);
	trace(p, r);
}

static __always_inline void count_connection(__u32 service, bool reopened)
{
	struct svc_stats *s = bpf_map_lookup_elem(&fl_svc_stats, &service);

	if (!s)
		return;
	if (reopened)
		s->reopened++;
	else
		s->connections++;
}

static __always_inline void count_bytes(__u32 service, __u32 bytes, bool reply)
{
	struct svc_stats *s = bpf_map_lookup_elem(&fl_svc_stats, &service);

	if (!s)
		return;
	if (reply) {
		s->packets_out++;
		s->bytes_out += bytes;
	} else {
		s->packets_in++;
		s->bytes_in += bytes;
	}
}

/* The counters' slot of the packet's interface, and what it can do. */
static __always_inline struct iface *iface_of(__u32 ifindex)
{
	__u32 i = ifindex & IFACE_MASK;
	struct iface *dev = bpf_map_lookup_elem(&fl_ifaces, &i);

	return dev && dev->ifindex == ifindex ? dev : NULL;
}

/* May this be an address of a service or a backend? */
static __always_inline bool is_known(const struct addr *a)
{
	__u32 bit = hash_addr(a), line = bit >> 9;
	struct filter_line *f = bpf_map_lookup_elem(&fl_filter, &line);

	return f && f->bits[(bit >> 6) & 7] & (1ULL << (bit & 63));
}

#endif
