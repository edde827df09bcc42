/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef FL_DIRECT_H
#define FL_DIRECT_H

#include "select.h"

/*
 * Services without SVC_FLOWS: TCP, one address, backends of their own. A
 * client's packet goes where the table says and touches no flow entry. Only
 * replies have one, and that is the truth about whose a flow is: while older
 * tables are remembered, a flow whose slot had another owner there is looked
 * for among the replies of that owner. See docs/design/0002-stateless.md.
 */

/* The entry of the replies that b would send in answer to this packet. */
static __always_inline struct flow *replies_of(struct scratch *s, const struct backend *b, bool *embryo)
{
	const struct flow_key *k = &s->key;

	s->other = (struct flow_key){ .src = b->addr, .dst = k->src, .sport = b->port, .dport = k->sport, .proto = k->proto };
	if (addr_equal(&b->addr, &k->src))
		s->other.dst = k->dst; /* hairpin */
	return flow_find(&s->other, LOOK_REPLY, embryo);
}

/* Deletes the entry that replies_of found. */
static __always_inline void replies_forget(struct scratch *s)
{
	bpf_map_delete_elem(&fl_flows, &s->other);
	bpf_map_delete_elem(&fl_embryos, &s->other);
	handshake_find(&s->other, LOOK_REPLY | HANDSHAKE_FORGET);
}

/* Is the flow of these replies the one the packet belongs to? A SYN may begin another on its tuple. */
static __always_inline bool replies_hold(const struct flow *f, const struct scratch *s, const struct backend *b, bool syn)
{
	return f && f->service == s->service.id && (!syn || (b->flags & BE_OPEN && !flow_over(f)));
}

/*
 * The backend of a packet whose slot had other owners: one of theirs if it has
 * the flow, else the present one, which may be NULL.
 */
static __always_inline struct backend *owner_before(struct scratch *s, struct backend *now, __u32 hash, bool syn, __u32 *id)
{
	struct backend *b;
	struct flow *f;
	bool embryo;
	__u32 before = 0;

	for (__u32 i = 0; i < OLD_TABLES; i++) {
		if (i >= s->service.olds)
			break;
		b = backend_in(s->service.old[i].base, s->service.old[i].len, hash, &before);
		if (!b || b == now)
			continue;
		f = replies_of(s, b, &embryo);
		if (replies_hold(f, s, b, syn)) {
			*id = before;
			return b;
		}
		/* Another connection begins: the entry of the one before must not claim its packets. */
		if (syn && f && f->service == s->service.id)
			replies_forget(s);
	}
	return now;
}

static __always_inline void xlate_direct(struct xlate *x, const struct flow_key *k, const struct backend *b)
{
	x->src = k->src;
	x->dst = b->addr;
	x->sport = k->sport;
	x->dport = b->port;
}

/* What direct_owner found. */
enum owner {
	OWNER_NONE,    /* no backend */
	OWNER_KNOWN,   /* in scratch: owner */
	OWNER_NEW,     /* that one, for a connection nobody has an entry of yet */
	OWNER_HAIRPIN, /* that one, and it is the client itself: needs entries of its own */
};

/* Finds the backend of the packet whose key and service are in scratch. */
__noinline enum owner direct_owner(__u32 syn)
{
	struct scratch *s = scratch();
	struct backend *b, *held;
	struct flow *f;
	bool embryo;
	__u32 hash, id = 0;

	if (!s)
		return OWNER_NONE;
	hash = hash_flow(&s->key, hash_seed);
	b = backend_at(&s->service, hash, &id);
	held = owner_before(s, b, hash, syn, &id);
	s->owner = id;
	if (!held)
		return OWNER_NONE;
	if (addr_equal(&held->addr, &s->key.src))
		return OWNER_HAIRPIN;
	if (!syn || held != b)
		return OWNER_KNOWN;
	f = replies_of(s, b, &embryo);
	s->vacant = !f;
	return replies_hold(f, s, b, true) ? OWNER_KNOWN : OWNER_NEW;
}

/*
 * While the handshake of a flow with this hash may be going on: is this packet
 * its last? Key and service are put into scratch.
 */
static __always_inline void direct_confirm(const struct pkt *p, const struct backend *b, __u32 hash)
{
	struct tcphdr *th = p->data + p->l4;
	__u8 *pending = flow_pending(hash);
	struct scratch *s;

	if (!pending || !pending_fresh(*pending) || !(p->tcp_flags & TCP_ACK))
		return;
	s = scratch();
	opaque(th);
	if (!s || (void *)(th + 1) > p->end)
		return;
	s->key = (struct flow_key){
		.src = b->addr, .dst = p->key->src, .sport = b->port, .dport = p->key->sport, .proto = IPPROTO_TCP
	};
	flow_confirm(bpf_ntohl(th->ack_seq), true);
}

/*
 * When fl_flows is full the kernel's LRU takes the entries used longest ago: those
 * of idle connections. The client's packets touch none here, so they look
 * whether the replies still have theirs, but only after the agent has seen the
 * table nearly full: it is a lookup among all flows.
 */
static __always_inline bool mends(void)
{
	__u32 zero = 0;
	__u64 *until = bpf_map_lookup_elem(&fl_mend, &zero);

	return until && bpf_jiffies64() < *until;
}

/*
 * Sees to it that the replies to the packet in scratch, one in mid-connection to the
 * service and backend there, have an entry. A new one is that of a handshake, so
 * forged segments leave nothing in fl_flows: the backend's next segment confirms
 * it, or is a RST.
 */
__noinline int direct_mend(__u32 ifindex)
{
	struct scratch *s = scratch();
	struct service *svc;
	struct backend *b;
	bool embryo;

	if (!s || !mends())
		return 0;
	s->key = s->pkt_key;
	svc = bpf_map_lookup_elem(&fl_services, &s->service_key);
	if (!svc)
		return 0;
	/* Where there are older tables, direct_owner has been here. */
	b = svc->olds ? bpf_map_lookup_elem(&fl_backends, &s->owner)
		      : backend_at(svc, hash_flow(&s->key, hash_seed), &s->owner);
	if (!b || replies_of(s, b, &embryo))
		return 0;
	s->twin = s->other;
	/* Field by field: a literal would be put together on the stack, of which Linux 5.10 has too little. */
	__builtin_memset(&s->reply, 0, sizeof(s->reply));
	s->reply.src = s->key.dst;
	s->reply.dst = s->key.src;
	s->reply.sport = s->key.dport;
	s->reply.dport = s->key.sport;
	s->reply.backend = s->owner;
	s->reply.service = svc->id;
	s->reply.ifindex = ifindex;
	s->reply.flags = FLOW_REPLY | FLOW_SINGLE;
	s->reply.hash = hash_flow(&s->key, hash_seed);
	s->reply.seen = bpf_jiffies64();
	if (handshake_open() >= 0)
		count_connection(s->reply.service, true);
	return 0;
}

/* The client ends or resets its connection: noted where replies are. */
static __always_inline void direct_end(const struct pkt *p, const struct backend *b)
{
	struct scratch *s = scratch();
	struct flow *f;
	bool embryo;

	if (!s)
		return;
	s->key = *p->key;
	f = replies_of(s, b, &embryo);
	if (!f)
		return;
	f->state |= p->tcp_flags & TCP_RST ? FLOW_RST : FLOW_FIN_CLIENT;
	recent_forget(&s->other);
	if (is_handshake(s, f))
		handshake_note(&s->other, LOOK_REPLY, f->state, f->isn);
}

static __always_inline struct backend *direct_backend(const struct flow_key *k, const struct service *svc, bool syn,
						      enum owner *found)
{
	struct scratch *s = scratch();

	*found = OWNER_NONE;
	if (!s)
		return NULL;
	s->key = *k;
	s->service = *svc;
	*found = direct_owner(syn);
	return *found == OWNER_NONE ? NULL : bpf_map_lookup_elem(&fl_backends, &s->owner);
}

#endif
