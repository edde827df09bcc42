/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef FL_KNOWN_H
#define FL_KNOWN_H

#include "balance.h"

/*
 * The translation of a flow, for quick.h: of a confirmed one by what is
 * remembered of it (recent.h) or by its entry, of the SYN-ACK that answers a
 * handshake, and of datagrams until the first answer.
 */

/* What the packets of a confirmed flow become, but for the translation itself. */
struct known {
	struct backend *b; /* NULL: a reply */
	__u32 service;
	__u32 ifindex; /* where the client's packets arrive */
	__u64 answers; /* the first datagram of the backend: to be noted */
};

static __always_inline struct vip *vip_of(const struct pkt *p, __u32 service)
{
	__u32 i = service * 2 + p->v6;

	return bpf_map_lookup_elem(&fl_vips, &i);
}

/* What tells a flow of mode full-nat: both ends are others. */
static __always_inline __u32 nat_ident(const struct xlate *x)
{
	return hash_end(&x->dst, x->dport) + hash_end(&x->src, x->sport) * 0x85ebca6b;
}

static __always_inline struct addr *source_at(__u32 i)
{
	return bpf_map_lookup_elem(&fl_sources, &i);
}

/* Of a client's flow in mode full-nat, whose backend is known. */
static __always_inline bool quick_nat(__u32 source, __u32 ident, struct xlate *x, struct known *k)
{
	struct addr *a = source_at(source >> 16);

	if (!a)
		return false;
	k->service = k->b->service;
	x->src = *a;
	x->sport = bpf_htons(source);
	return nat_ident(x) == ident;
}

/* A reply of mode full-nat, of which everything but its new destination is known. */
static __always_inline bool quick_nat_reply(const struct recent_line *l, __u64 tag, __u32 ident, struct xlate *x)
{
	__u32 none = 0;
	__u64 to = recent_find(l, recent_tail(tag), &none);

	if (none || (__u8)to != RECENT_TO)
		return false;
	addr_map4(&x->dst, recent_first(to) | recent_second(to) << 24);
	x->dport = recent_second(to) >> 8;
	return nat_ident(x) == ident;
}

/* By the entry of the last seconds. */
static __always_inline bool quick_recent(const struct pkt *p, const struct recent_line *l, __u64 tag, struct xlate *x,
					 struct known *k)
{
	__u32 ident, first, i;
	struct iface *dev;
	struct vip *v;
	__u64 data;

	data = recent_find(l, tag, &ident);
	if (!data || !recent_fresh(data))
		return false;
	first = recent_first(data);
	if ((__u8)data == RECENT_REPLY || (__u8)data == RECENT_NAT_REPLY) {
		v = vip_of(p, first);
		i = recent_second(data) & IFACE_MASK;
		dev = bpf_map_lookup_elem(&fl_ifaces, &i);
		if (!v || !dev)
			return false;
		k->service = first;
		k->ifindex = dev->ifindex;
		x->src = v->addr;
		x->sport = v->port;
		if ((__u8)data == RECENT_NAT_REPLY)
			return quick_nat_reply(l, tag, ident, x);
		x->dst = p->key->dst;
		x->dport = p->key->dport;
		return hash_end(&x->src, x->sport) == ident;
	}
	k->b = bpf_map_lookup_elem(&fl_backends, &first);
	if (!k->b || !(k->b->flags & BE_USED))
		return false;
	x->dst = k->b->addr;
	x->dport = k->b->port;
	if ((__u8)data == RECENT_NAT)
		return quick_nat(recent_second(data), ident, x, k);
	k->service = recent_second(data);
	x->src = p->key->src;
	x->sport = p->key->sport;
	return hash_end(&x->dst, x->dport) == ident;
}

/* A client's flow in mode full-nat, of which x is the translation. */
static __always_inline void quick_remember_nat(const struct flow *f, const struct xlate *x, const struct known *k,
					       struct recent_line *l, __u64 tag)
{
	struct addr *a = source_at(f->source);

	if (a && addr_equal(a, &f->src) && k->b->service == f->service)
		recent_put(l, tag, recent_data(RECENT_NAT, f->backend, (__u32)f->source << 16 | bpf_ntohs(f->sport)),
			   nat_ident(x));
}

static __always_inline void quick_remember_nat_reply(const struct flow *f, const struct xlate *x, struct recent_line *l,
						     __u64 tag)
{
	__u32 to = f->dst.w[3];

	if (addr_is4(&f->dst) &&
	    recent_put(l, recent_tail(tag), recent_data(RECENT_TO, to & RECENT_NUMBER, (__u32)f->dport << 8 | to >> 24), 0))
		recent_put(l, tag, recent_data(RECENT_NAT_REPLY, f->service, f->ifindex & IFACE_MASK), nat_ident(x));
}

/* Remembers the flow for the next packets, if an entry can tell what it changes. */
static __always_inline void quick_remember(const struct pkt *p, const struct flow *f, const struct xlate *x,
					   const struct known *k, struct recent_line *l, __u64 tag)
{
	struct vip *v;

	if (f->state & (FLOW_RST | FLOW_FIN_CLIENT | FLOW_FIN_BACKEND) || (f->service | f->backend) > RECENT_NUMBER)
		return;
	if (k->b) {
		if (f->flags & FLOW_NAT)
			quick_remember_nat(f, x, k, l, tag);
		else if (f->sport == p->key->sport && addr_equal(&f->src, &p->key->src))
			recent_put(l, tag, recent_data(RECENT_CLIENT, f->backend, f->service), hash_end(&f->dst, f->dport));
		return;
	}
	v = vip_of(p, f->service);
	if (!v || !iface_of(f->ifindex) || v->port != f->sport || !addr_equal(&v->addr, &f->src))
		return;
	if (f->flags & FLOW_NAT)
		quick_remember_nat_reply(f, x, l, tag);
	else if (f->dport == p->key->dport && addr_equal(&f->dst, &p->key->dst))
		recent_put(l, tag, recent_data(RECENT_REPLY, f->service, f->ifindex & IFACE_MASK), hash_end(&f->src, f->sport));
}

/*
 * Is it time to look after the other direction's entry (flow_mend)? In one of
 * eight periods of SEEN_EVERY jiffies, not the same for all flows: the kernel's
 * LRU loses entries rarely, and it is two more lookups.
 */
static __always_inline bool quick_mends(const struct flow *f, __u32 now)
{
	return now - f->seen > SEEN_EVERY && !((now / SEEN_EVERY ^ f->hash) & 7);
}

/* What the entry says. */
static __always_inline void quick_of(const struct flow *f, struct xlate *x, struct known *k)
{
	xlate_of(x, f);
	k->service = f->service;
	k->ifindex = f->ifindex;
}

/*
 * A datagram of a flow that is not confirmed, f being its entry, or a copy of
 * that: a client's, until there was an answer, or that.
 */
static __always_inline bool quick_unanswered(const struct flow *f, struct xlate *x, struct known *k)
{
	if (f->state & FLOW_ANSWERED)
		return false;
	quick_of(f, x, k);
	if (f->flags & FLOW_REPLY) {
		k->answers = 1;
		return true;
	}
	k->b = backend_of(&f->dst, f->dport, f->backend);
	return k->b;
}

/*
 * The same, by the line of its client's end. A flow that is there is not in
 * fl_flows, or is just coming from here (handshake_confirm).
 */
static __always_inline bool quick_line(const struct pkt *p, struct xlate *x, struct known *k)
{
	struct scratch *s = scratch();

	if (p->key->proto != IPPROTO_UDP || !s)
		return false;
	s->handshake_key = *p->key;
	return handshake_datagram() && quick_unanswered(&s->handshake, x, k);
}

/* The same, of a client's that no line can tell. */
static __always_inline bool quick_embryo(const struct pkt *p, struct xlate *x, struct known *k)
{
	struct flow *f = p->key->proto == IPPROTO_UDP ? embryo_find(p->key) : NULL;

	if (!f || f->flags & FLOW_REPLY || !quick_unanswered(f, x, k))
		return false;
	f->seen = bpf_jiffies64();
	embryos_use();
	return true;
}

/* By the flow's own entry, if nothing but its time has to be noted there. */
static __always_inline bool quick_entry(const struct pkt *p, struct recent_line *l, __u64 tag, struct xlate *x, struct known *k)
{
	struct flow *f = bpf_map_lookup_elem(&fl_flows, p->key);
	__u32 now = bpf_jiffies64();

	if (!f)
		return quick_embryo(p, x, k);
	if (!(f->flags & FLOW_REPLY)) {
		k->b = backend_of(&f->dst, f->dport, f->backend);
		if (!k->b || quick_mends(f, now))
			return false;
	}
	quick_of(f, x, k);
	quick_remember(p, f, x, k, l, tag);
	if (now - f->seen > SEEN_EVERY)
		f->seen = now;
	return true;
}

/* The FIN or RST of a backend whose replies alone have an entry; what has two is left to flow_mark. */
static __always_inline bool quick_end(const struct pkt *p, struct recent_line *l, __u64 tag, struct xlate *x, struct known *k)
{
	struct flow *f = bpf_map_lookup_elem(&fl_flows, p->key);

	if (!f || !(f->flags & FLOW_SINGLE))
		return false;
	f->state |= p->tcp_flags & TCP_RST ? FLOW_RST : FLOW_FIN_BACKEND;
	f->seen = bpf_jiffies64();
	recent_clear(l, tag);
	quick_of(f, x, k);
	return true;
}

/* The SYN-ACK of a handshake in fl_handshakes, if its tuple has no other entry: that one would come first. */
static __always_inline bool quick_answer(const struct pkt *p, struct xlate *x, struct known *k)
{
	struct tcphdr *th = p->data + p->l4;
	__u8 *pending;
	struct flow *f;

	opaque(th);
	if ((void *)(th + 1) > p->end || bpf_map_lookup_elem(&fl_flows, p->key) || embryo_find(p->key))
		return false;
	f = handshake_note(p->key, LOOK_REPLY, FLOW_ANSWERED, bpf_ntohl(th->seq));
	if (!f)
		return false;
	pending = f->flags & FLOW_SINGLE ? flow_pending(f->hash) : NULL;
	if (pending)
		*pending = pending_now(); /* the client's ACK comes now */
	quick_of(f, x, k);
	return true;
}

#endif
