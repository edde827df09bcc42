/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef FL_FLOW_H
#define FL_FLOW_H

#include "stats.h"

/*
 * The flow table: which backend a flow has, and its translation. Callers know
 * flow_find, flow_open, flow_touch and flow_close; how it is stored (two LRU
 * hashes, an entry per direction) stays in here.
 *
 * A flow starts as an embryo and moves to fl_flows when the client's side has
 * answered the backend's (TCP: a segment without SYN) or the backend has (UDP).
 */

/* Jiffies between writes of a flow's time: about a second, less at HZ below 1000. */
#define SEEN_EVERY 256

volatile const __u64 hash_seed;

static __always_inline struct flow *flow_find(const struct flow_key *key, bool *embryo)
{
	struct flow *f = bpf_map_lookup_elem(&fl_flows, key);

	*embryo = false;
	if (f)
		return f;
	*embryo = true;
	return bpf_map_lookup_elem(&fl_embryos, key);
}

/* Both entries go, wherever they are. */
static __always_inline void flow_close(const struct flow_key *key, const struct flow *f)
{
	struct scratch *s = scratch();

	if (!s)
		return;
	key_twin(&s->other, f, key->proto);
	bpf_map_delete_elem(&fl_flows, &s->other);
	bpf_map_delete_elem(&fl_embryos, &s->other);
	bpf_map_delete_elem(&fl_flows, key);
	bpf_map_delete_elem(&fl_embryos, key);
}

/*
 * Moves both entries of the embryo whose key is in scratch to the table of
 * confirmed flows. Returns 0, also when somebody else did it first.
 */
__noinline int flow_confirm(void)
{
	struct scratch *s = scratch();
	struct flow *f, *t;

	if (!s)
		return 0;
	f = bpf_map_lookup_elem(&fl_embryos, &s->key);
	if (!f)
		return 0;
	s->flow = *f;
	key_twin(&s->twin, &s->flow, s->key.proto);
	t = bpf_map_lookup_elem(&fl_embryos, &s->twin);
	if (!t)
		return 0;
	bpf_map_update_elem(&fl_flows, &s->twin, t, BPF_ANY);
	bpf_map_update_elem(&fl_flows, &s->key, &s->flow, BPF_ANY);
	bpf_map_delete_elem(&fl_embryos, &s->twin);
	bpf_map_delete_elem(&fl_embryos, &s->key);
	return 0;
}

/* Marks the twin too: a new SYN must see the FIN of either side. */
static __always_inline void flow_mark(struct flow *f, __u8 proto, __u8 state)
{
	struct scratch *s = scratch();
	struct flow *t;
	bool embryo;

	if (!s || (f->state & state) == state)
		return;
	f->state |= state;
	key_twin(&s->other, f, proto);
	t = flow_find(&s->other, &embryo);
	if (t)
		t->state |= state;
}

/* Accounts a packet to its flow: time, state, bytes; confirms an embryo. */
static __always_inline void flow_touch(struct pkt *p, struct flow *f, bool embryo)
{
	bool reply = f->flags & FLOW_REPLY;
	__u64 now = bpf_jiffies64();
	struct scratch *s;

	if (now - f->seen > SEEN_EVERY)
		f->seen = now;
	if (p->key->proto == IPPROTO_TCP) {
		if (p->tcp_flags & TCP_RST)
			flow_mark(f, IPPROTO_TCP, FLOW_RST);
		else if (p->tcp_flags & TCP_FIN)
			flow_mark(f, IPPROTO_TCP, reply ? FLOW_FIN_BACKEND : FLOW_FIN_CLIENT);
	}
	count_bytes(f->service, p->bytes, reply);
	if (!embryo)
		return;
	/* f itself is gone afterwards. */
	if (p->key->proto == IPPROTO_TCP ? reply || p->tcp_flags & (TCP_SYN | TCP_RST) : !reply)
		return;
	s = scratch();
	if (!s)
		return;
	s->key = *p->key;
	flow_confirm();
}

/* Is a flow's connection over, so that a SYN on its tuple is a new one? */
static __always_inline bool flow_over(const struct flow *f)
{
	const __u8 both = FLOW_FIN_CLIENT | FLOW_FIN_BACKEND;

	return !!(f->state & FLOW_RST) | ((f->state & both) == both);
}

/* Do both translate to the same tuple? */
static __always_inline bool flow_same(const struct flow *a, const struct flow *b)
{
	__u32 ports = (a->sport ^ b->sport) | (a->dport ^ b->dport);

	return !(addr_differs(&a->src, &b->src) | addr_differs(&a->dst, &b->dst) | ports);
}

/*
 * Claims the reverse tuple of a new flow. A backend behind two VIP ports may
 * see the same client port twice: the loser tries again, it never overwrites a
 * live flow.
 */
static __always_inline bool flow_claim(struct flow_key *twin, struct flow *rev)
{
	struct flow *old;
	bool embryo;

	old = flow_find(twin, &embryo);
	if (old) {
		if (!flow_over(old) && !flow_same(old, rev))
			return false;
		flow_close(twin, old);
	}
	return bpf_map_update_elem(&fl_embryos, twin, rev, BPF_NOEXIST) == 0;
}

#endif
