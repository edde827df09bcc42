/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef FL_FLOW_H
#define FL_FLOW_H

#include "pending.h"
#include "recent.h"
#include "source.h"

/*
 * The flow table: which backend a flow has, and its translation. Callers know
 * flow_find, flow_open, flow_touch and flow_close; how it is stored (two LRU
 * hashes, an entry per direction; lines of handshakes) stays in here.
 *
 * A flow starts in fl_handshakes, or in fl_embryos if no line can tell it; it
 * moves to fl_flows when the client's side has answered the backend's (TCP: a
 * segment without SYN), or with the first datagram after the backend's first (UDP).
 * A question and its answer is most of what some services have: it stays in its
 * line, and takes the place of no flow that lasts. From fl_embryos the backend's
 * first one moves it.
 */

/* Jiffies between writes of a flow's time: about a second, less at HZ below 1000. */
#define SEEN_EVERY 256

/*
 * How long after its last use fl_embryos is looked into: longer than any entry of
 * it lives. Jiffies: two minutes at HZ 1000, more at others.
 */
#define EMBRYOS_LIFE (1 << 17)

static __always_inline __u64 *embryos_used(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&fl_embryos_used, &zero);
}

/* To be told before something is put there, and while packets use it. */
static __always_inline void embryos_use(void)
{
	__u64 *used = embryos_used(), now = bpf_jiffies64();

	if (used && now - *used > SEEN_EVERY)
		*used = now;
}

/* Few flows are in fl_embryos, often none, and a lookup in it costs an access to memory all the same. */
static __always_inline struct flow *embryo_find(const struct flow_key *key)
{
	__u64 *used = embryos_used();

	return used && bpf_jiffies64() - *used <= EMBRYOS_LIFE ? bpf_map_lookup_elem(&fl_embryos, key) : NULL;
}

/* The entry of a flow, of the direction that look says (LOOK_…); that of a handshake is a copy (is_handshake). */
static __always_inline struct flow *flow_find(const struct flow_key *key, __u32 look, bool *embryo)
{
	struct flow *f = bpf_map_lookup_elem(&fl_flows, key);

	*embryo = false;
	if (f)
		return f;
	*embryo = true;
	f = embryo_find(key);
	return f ?: handshake_find(key, look);
}

/* Which direction an entry is of. */
static __always_inline __u32 flow_look(const struct flow *f)
{
	return f->flags & FLOW_REPLY ? LOOK_REPLY : LOOK_CLIENT;
}

/* The entry of the other direction, of a flow whose entry for key is f. */
static __always_inline void flow_turn(struct flow *t, const struct flow *f, const struct flow_key *key)
{
	*t = *f;
	t->flags ^= FLOW_REPLY;
	t->src = key->dst;
	t->dst = key->src;
	t->sport = key->dport;
	t->dport = key->sport;
}

/* Is what flow_find found a copy? Then what changes is told by handshake_note. */
static __always_inline bool is_handshake(const struct scratch *s, const struct flow *f)
{
	return f == &s->handshake;
}

/* Both entries go, wherever they are, and what the flow held is free. */
static __always_inline void flow_close(const struct flow_key *key, struct flow *f)
{
	struct scratch *s = scratch();

	if (!s)
		return;
	flow_return(key, f, NULL);
	if (is_handshake(s, f)) {
		handshake_find(key, flow_look(f) | HANDSHAKE_FORGET);
		return;
	}
	key_twin(&s->other, f, key->proto);
	bpf_map_delete_elem(&fl_flows, &s->other);
	bpf_map_delete_elem(&fl_embryos, &s->other);
	bpf_map_delete_elem(&fl_flows, key);
	bpf_map_delete_elem(&fl_embryos, key);
	recent_forget(&s->other);
	recent_forget(key);
}

/* Is ack what a client says that got the SYN-ACK of these replies? */
static __always_inline bool flow_proved(const struct flow *replies, __u32 ack)
{
	return replies->state & FLOW_ANSWERED && ack == replies->isn + 1;
}

/* Moves the handshake whose key is in scratch to the table of confirmed flows. */
static __always_inline bool handshake_confirm(struct scratch *s, __u32 ack, __u32 by_client)
{
	struct flow *f = handshake_find(&s->key, LOOK_ANY);

	if (!f || (by_client && !flow_proved(f, ack)))
		return false;
	s->flow = *f;
	if (!(f->flags & FLOW_SINGLE)) {
		key_twin(&s->twin, f, s->key.proto);
		flow_turn(&s->reply, f, &s->key);
		bpf_map_update_elem(&fl_flows, &s->twin, &s->reply, BPF_ANY);
	}
	bpf_map_update_elem(&fl_flows, &s->key, &s->flow, BPF_ANY);
	handshake_find(&s->key, flow_look(&s->flow) | HANDSHAKE_FORGET);
	return true;
}

/*
 * Moves the embryo whose key is in scratch, with its twin if it has one, to the
 * table of confirmed flows. by_client: only if ack is what the client must
 * acknowledge, so that a flood with forged sources confirms nothing. Returns 0,
 * also when there was nothing to do.
 */
__noinline int flow_confirm(__u32 ack, __u32 by_client)
{
	struct scratch *s = scratch();
	struct flow *f, *t, *replies;
	__u8 *pending;

	if (!s)
		return 0;
	f = embryo_find(&s->key);
	if (!f) {
		if (!handshake_confirm(s, ack, by_client))
			return 0;
		goto confirmed;
	}
	s->flow = *f;
	t = NULL;
	if (!(f->flags & FLOW_SINGLE)) {
		key_twin(&s->twin, &s->flow, s->key.proto);
		t = bpf_map_lookup_elem(&fl_embryos, &s->twin);
		if (!t)
			return 0;
	}
	replies = t && !(f->flags & FLOW_REPLY) ? t : f;
	if (by_client && !flow_proved(replies, ack))
		return 0;
	/* Or clang tests FLOW_SINGLE in place of t, and the verifiers of 5.10 and 6.1 do not see that it is the same. */
	opaque(t);
	if (t) {
		bpf_map_update_elem(&fl_flows, &s->twin, t, BPF_ANY);
		bpf_map_delete_elem(&fl_embryos, &s->twin);
	}
	bpf_map_update_elem(&fl_flows, &s->key, &s->flow, BPF_ANY);
	bpf_map_delete_elem(&fl_embryos, &s->key);
confirmed:
	pending = flow_pending(s->flow.hash);
	if (pending)
		*pending = 0;
	return 0;
}

/*
 * The kernel's LRU may take one entry of a flow and leave the other: a lost
 * entry for the replies would never come back by itself. Key in scratch.
 */
static __always_inline void flow_mend(struct scratch *s, const struct flow *f)
{
	bool embryo;

	key_twin(&s->other, f, s->key.proto);
	if (flow_find(&s->other, LOOK_REPLY, &embryo))
		return;
	flow_turn(&s->reply, f, &s->key);
	bpf_map_update_elem(&fl_flows, &s->other, &s->reply, BPF_NOEXIST);
}

/*
 * The entry that a reply goes by: f, which flow_find found, or that of a
 * handshake on the tuple of a connection before. Only a backend that took the
 * new one sends a SYN-ACK, so from now on the old one is not there any longer.
 */
static __always_inline struct flow *flow_renewed(const struct pkt *p, struct flow *f, bool *embryo)
{
	struct flow *now;

	if (*embryo || p->key->proto != IPPROTO_TCP || (p->tcp_flags & (TCP_SYN | TCP_ACK)) != (TCP_SYN | TCP_ACK))
		return f;
	now = handshake_find(p->key, LOOK_REPLY);
	if (!now)
		return f;
	bpf_map_delete_elem(&fl_flows, p->key);
	recent_forget(p->key);
	*embryo = true;
	return now;
}

/* Marks the twin too: a new SYN must see the FIN of either side. */
static __always_inline void flow_mark(const struct flow_key *key, struct flow *f, __u8 state)
{
	struct scratch *s = scratch();
	struct flow *t;
	bool embryo;

	if (!s || (f->state & state) == state)
		return;
	f->state |= state;
	recent_forget(key);
	if (f->flags & FLOW_SINGLE)
		return;
	key_twin(&s->other, f, key->proto);
	recent_forget(&s->other);
	t = flow_find(&s->other, LOOK_ANY & ~flow_look(f), &embryo);
	if (t)
		t->state |= state;
	if (flow_over(f))
		flow_return(key, f, t);
}

/* What a packet says of its flow. */
static __always_inline __u8 flow_said(__u8 proto, __u32 tcp_flags, bool reply)
{
	if (proto == IPPROTO_UDP)
		return reply ? FLOW_ANSWERED : 0;
	if (tcp_flags & TCP_RST)
		return FLOW_RST;
	if (tcp_flags & TCP_FIN)
		return reply ? FLOW_FIN_BACKEND : FLOW_FIN_CLIENT;
	return reply && (tcp_flags & (TCP_SYN | TCP_ACK)) == (TCP_SYN | TCP_ACK) ? FLOW_ANSWERED : 0;
}

/* Notes what was said of a handshake whose key is in scratch, and so is f. */
static __always_inline void handshake_said(struct scratch *s, struct flow *f, __u8 said, __u32 seq)
{
	__u32 look = flow_look(f);

	if (!handshake_note(&s->key, look, said, seq) || !flow_over(f))
		return;
	flow_return(&s->key, f, NULL);
	if (f->state & FLOW_RETURNED)
		handshake_note(&s->key, look, FLOW_RETURNED, 0);
}

/*
 * What is not done for every packet of a flow, whose key is in scratch: the
 * time, the handshake and the end of TCP. If it may confirm an embryo, the direction
 * is returned, else 0.
 */
__noinline int flow_event(__u32 tcp_flags, __u32 seq)
{
	struct scratch *s = scratch();
	bool embryo, reply, answered, confirms;
	struct flow *f;
	__u8 *pending;
	__u8 said;

	if (!s)
		return 0;
	f = flow_find(&s->key, LOOK_ANY, &embryo);
	if (!f)
		return 0;
	reply = f->flags & FLOW_REPLY;
	f->seen = bpf_jiffies64();
	if (!reply && !embryo)
		flow_mend(s, f);
	answered = f->state & FLOW_ANSWERED;
	said = flow_said(s->key.proto, tcp_flags, reply);
	if (said & FLOW_ANSWERED) {
		f->isn = seq;
		pending = f->flags & FLOW_SINGLE ? flow_pending(f->hash) : NULL;
		if (pending)
			*pending = pending_now(); /* the client's ACK comes now */
	}
	if (is_handshake(s, f))
		handshake_said(s, f, said, seq);
	else if (said & FLOW_ANSWERED)
		f->state |= said;
	else if (said)
		flow_mark(&s->key, f, said);
	if (!embryo)
		return 0;
	if (!is_handshake(s, f))
		embryos_use();
	if (s->key.proto == IPPROTO_TCP)
		confirms = (tcp_flags & (TCP_SYN | TCP_RST | TCP_ACK)) == TCP_ACK;
	else
		confirms = is_handshake(s, f) ? answered : reply;
	if (!confirms)
		return 0;
	return reply ? LOOK_REPLY : LOOK_CLIENT;
}

/* Accounts a packet to its flow. */
static __always_inline void flow_touch(struct pkt *p, struct flow *f, bool embryo)
{
	__u32 now = bpf_jiffies64(), seq = 0, ack = 0;
	struct tcphdr *th = p->data + p->l4;
	bool tcp = p->key->proto == IPPROTO_TCP;
	struct scratch *s;
	int confirms;

	count_bytes(f->service, p->bytes, f->flags & FLOW_REPLY);
	if (!embryo && now - f->seen <= SEEN_EVERY && !(tcp && p->tcp_flags & (TCP_SYN | TCP_FIN | TCP_RST)))
		return;
	s = scratch();
	if (!s)
		return;
	opaque(th);
	if (tcp && (void *)(th + 1) <= p->end) {
		seq = bpf_ntohl(th->seq);
		ack = bpf_ntohl(th->ack_seq);
	}
	s->key = *p->key;
	confirms = flow_event(tcp ? p->tcp_flags : 0, seq);
	if (confirms)
		flow_confirm(ack, tcp && confirms == LOOK_CLIENT); /* f itself may be gone afterwards */
}

/* Do both translate to the same tuple? */
static __always_inline bool flow_same(const struct flow *a, const struct flow *b)
{
	__u32 ports = (a->sport ^ b->sport) | (a->dport ^ b->dport);

	return !(addr_differs(&a->src, &b->src) | addr_differs(&a->dst, &b->dst) | ports);
}

/* Is it the same to both directions who the client is? Then a line can tell the flow in scratch. */
static __always_inline bool flow_plain(struct scratch *s)
{
	if (s->service.flags & SVC_NAT || (s->twin.dport != s->key.sport) || addr_differs(&s->twin.dst, &s->key.src))
		return false;
	s->handshake_service.vip = s->key.src;
	s->handshake_service.port = s->key.sport;
	s->handshake_service.proto = s->key.proto;
	return !bpf_map_lookup_elem(&fl_services, &s->handshake_service);
}

/*
 * Claims the reverse tuple of a new flow: twin and reply of scratch. A backend
 * behind two VIP ports may see the same client port twice: the loser tries
 * again, it never overwrites a live flow. vacant: the caller has looked, and
 * there is none. in_line of scratch: the client's direction needs no entry.
 */
static __always_inline bool flow_claim(struct scratch *s, bool single, bool vacant)
{
	struct flow *old;
	bool embryo;
	int noted;

	old = vacant ? NULL : flow_find(&s->twin, LOOK_REPLY, &embryo);
	if (old) {
		if (!flow_over(old) && !flow_same(old, &s->reply))
			return false;
		flow_close(&s->twin, old);
	}
	s->in_line = single || flow_plain(s);
	if (s->in_line) {
		noted = handshake_open();
		if (noted != HANDSHAKE_FULL)
			return noted != HANDSHAKE_TAKEN;
		s->in_line = single;
	}
	embryos_use();
	return bpf_map_update_elem(&fl_embryos, &s->twin, &s->reply, BPF_NOEXIST) == 0;
}

#endif
