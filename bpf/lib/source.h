/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef FL_SOURCE_H
#define FL_SOURCE_H

#include "stats.h"

/* What a flow holds while it lives: a source port (mode full-nat), a place in its backend's load. */

/* A port that rested while its source was taken away is passed over. */
#define SOURCE_TRIES 8

static __always_inline long ports_pop(__u32 proto, bool v4, __u32 *port)
{
	if (proto == IPPROTO_TCP)
		return v4 ? bpf_map_pop_elem(&fl_ports_tcp4, port) : bpf_map_pop_elem(&fl_ports_tcp6, port);
	return v4 ? bpf_map_pop_elem(&fl_ports_udp4, port) : bpf_map_pop_elem(&fl_ports_udp6, port);
}

static __always_inline long ports_push(__u32 proto, bool v4, const __u32 *port)
{
	if (proto == IPPROTO_TCP)
		return v4 ? bpf_map_push_elem(&fl_ports_tcp4, port, 0) : bpf_map_push_elem(&fl_ports_tcp6, port, 0);
	return v4 ? bpf_map_push_elem(&fl_ports_udp4, port, 0) : bpf_map_push_elem(&fl_ports_udp6, port, 0);
}

/* Takes a free port for the flow in scratch: address and port become twin.dst. Returns 0, or -1: there is none. */
__noinline int source_take(void)
{
	struct scratch *s = scratch();
	struct addr *a;
	__u32 i;
	bool v4;

	if (!s)
		return -1;
	v4 = addr_is4(&s->key.dst);
	for (int n = 0; n < SOURCE_TRIES; n++) {
		if (ports_pop(s->key.proto, v4, &s->source))
			return -1;
		i = s->source >> 16;
		a = bpf_map_lookup_elem(&fl_sources, &i);
		if (!a || !(a->w[2] | a->w[3]) || addr_is4(a) != v4)
			continue;
		s->twin.dst = *a;
		s->twin.dport = bpf_htons(s->source);
		return 0;
	}
	return -1;
}

/* Gives back what a flow with these flags held. */
__noinline int source_give(__u32 port, __u32 backend, __u32 flags, __u32 proto, __u32 v4)
{
	struct load *l;

	if (flags & FLOW_NAT)
		ports_push(proto, v4, &port);
	if (!(flags & FLOW_LEAST))
		return 0;
	l = bpf_map_lookup_elem(&fl_load, &backend);
	if (l && l->flows)
		__sync_fetch_and_add(&l->flows, -1);
	return 0;
}

/* A flow is over: f under this key, and t, its other direction if that has an entry. */
static __always_inline void flow_return(const struct flow_key *key, struct flow *f, struct flow *t)
{
	__be16 port;

	if (!(f->flags & FLOW_HOLDS) || f->state & FLOW_RETURNED)
		return;
	f->state |= FLOW_RETURNED;
	if (t)
		t->state |= FLOW_RETURNED;
	port = f->flags & FLOW_REPLY ? key->dport : f->sport;
	source_give((__u32)f->source << 16 | bpf_ntohs(port), f->backend, f->flags, key->proto, addr_is4(&key->src));
}

#endif
