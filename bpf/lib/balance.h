/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef FL_BALANCE_H
#define FL_BALANCE_H

#include "frag.h"
#include "parse.h"
#include "sleep.h"
#include "slow.h"

/*
 * What happens to one packet. Before a byte of it is changed the way out is
 * PASS; afterwards it is DROP with a reason.
 */

/* What becomes of a packet that does not fit: only TC can cut it. */
static __always_inline int too_big(const struct pkt *p)
{
	if (!may_split(p))
		return out_of_line(p, SLOW_TOO_BIG, REASON_TOO_BIG);
	return p->tc ? out_of_line(p, SLOW_SPLIT, REASON_TOO_BIG) : pass(p, REASON_HANDED_TO_TC);
}

static __always_inline int forward(struct pkt *p, const struct xlate *x, const struct hop *h, enum reason why)
{
	if (h->how == EXIT_TO_TC)
		return pass(p, REASON_HANDED_TO_TC);
	if (h->how == EXIT_NONE)
		return drop(p, REASON_NO_ROUTE);
	if (p->ttl <= 1)
		return out_of_line(p, SLOW_TTL, REASON_TTL_EXCEEDED);
	if (h->how == EXIT_TOO_BIG || ((why == REASON_FORWARDED || !fits_client(h)) && !fits(p, h)))
		return too_big(p);
	if (p->fragment)
		frag_remember(p, x, h, why);
	if (rewrite(p, x))
		return drop(p, REASON_REWRITE);
	return emit(p, h, why);
}

/* May packets of known flows still go to b? */
static __always_inline bool backend_usable(const struct pkt *p, const struct backend *b)
{
	/* A replica that drains may be gone, and its interface with it; the flow may be another's by now, on the same port. */
	return p->key->proto != IPPROTO_UDP || (!(b->flags & BE_DOWN) && b->ifindex);
}

/* May this packet go on along a flow that leads to b? */
static __always_inline bool flow_usable(const struct pkt *p, const struct flow *f, const struct backend *b)
{
	if (!b || !backend_usable(p, b))
		return false;
	if (p->key->proto == IPPROTO_UDP)
		return true;
	if ((p->tcp_flags & (TCP_SYN | TCP_ACK)) != TCP_SYN)
		return true;
	return (b->flags & BE_OPEN) && !flow_over(f);
}

/* The translation of a client's packet and its way, by a known flow or a new one. */
static __always_inline enum reason flow_of(struct pkt *p, struct flow *f, bool embryo, struct xlate *x, struct hop *h)
{
	struct service *svc;
	struct backend *b;
	enum reason why;

	if (f) {
		b = backend_of(&f->dst, f->dport, f->backend);
		if (flow_usable(p, f, b)) {
			xlate_of(x, f);
			hop_backend(p, b, h);
			if (h->how != EXIT_TO_TC)
				flow_touch(p, f, embryo);
			return REASON_FORWARDED;
		}
		flow_close(p->key, f);
	}
	svc = service_find(&p->key->dst, p->key->dport, p->key->proto);
	if (!svc && !is_vip(&p->key->dst))
		return REASON_NOT_OURS;
	if (is_martian(p->key))
		return REASON_MARTIAN;
	if (!svc)
		return REASON_PORT_REFUSED;
	why = flow_open(p, svc, false, &f);
	if (why != REASON_FORWARDED)
		return why;
	xlate_of(x, f);
	b = backend_of(&f->dst, f->dport, f->backend);
	if (b)
		hop_backend(p, b, h);
	if (h->how != EXIT_TO_TC)
		count_bytes(f->service, p->bytes, false);
	return REASON_FORWARDED;
}

/*
 * The translation of a client's packet to a service without SVC_FLOWS, and its
 * way. *special: the packet needs entries of its own after all (hairpin).
 */
static __always_inline enum reason direct_of(struct pkt *p, struct service *svc, struct xlate *x, struct hop *h, bool *special)
{
	bool syn = (p->tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN;
	__u32 hash = hash_flow(p->key, hash_seed);
	enum owner owner = OWNER_KNOWN;
	struct backend *b;
	enum reason why;
	struct flow *f;
	__u32 id = 0;

	if (svc->olds || syn) {
		b = direct_backend(p->key, svc, syn, &owner);
	} else {
		b = backend_at(svc, hash, &id);
		if (b && addr_equal(&b->addr, &p->key->src))
			owner = OWNER_HAIRPIN;
	}
	if (is_martian(p->key))
		return REASON_MARTIAN;
	if (!b)
		return REASON_NO_BACKEND;
	if (owner == OWNER_HAIRPIN) {
		*special = true;
		return REASON_FORWARDED;
	}
	if (owner == OWNER_NEW) {
		why = flow_open(p, svc, true, &f);
		if (why != REASON_FORWARDED)
			return why;
	}
	if (!syn) {
		direct_mend(p->ifindex);
		direct_confirm(p, b, hash);
	}
	if (p->tcp_flags & (TCP_FIN | TCP_RST))
		direct_end(p, b);
	xlate_direct(x, p->key, b);
	hop_backend(p, b, h);
	if (h->how != EXIT_TO_TC)
		count_bytes(svc->id, p->bytes, false);
	return REASON_FORWARDED;
}

/* TCP and UDP packets whose headers are whole. */
static __always_inline int balance(struct pkt *p)
{
	struct scratch *s = scratch();
	struct flow *f = NULL;
	struct service *svc;
	struct xlate *x;
	struct hop *h;
	enum reason why;
	bool embryo = false, entries = true;

	if (!s)
		return drop(p, REASON_TABLE_FULL);
	x = &s->xlate;
	h = &s->hop;
	h->how = EXIT_NONE;
	svc = p->key->proto == IPPROTO_TCP ? service_find(&p->key->dst, p->key->dport, IPPROTO_TCP) : NULL;
	if (svc && svc->flags & SVC_WAKES) {
		why = sleep_of(p, svc);
		if (why != REASON_FORWARDED)
			return why == REASON_HELD ? pass(p, why) : drop(p, why);
	}
	if (svc && !(svc->flags & SVC_FLOWS)) {
		entries = false;
		why = direct_of(p, svc, x, h, &entries);
	}
	if (entries)
		f = flow_find(p->key, svc && (p->tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN ? LOOK_CLIENT : LOOK_ANY, &embryo);
	if (!entries) {
		/* why, x and h are set */
	} else if (f && f->flags & FLOW_REPLY) {
		f = flow_renewed(p, f, &embryo);
		xlate_of(x, f);
		hop_client(p, x, f->ifindex, h);
		if (h->how != EXIT_TO_TC)
			flow_touch(p, f, embryo);
		why = REASON_REPLIED;
	} else {
		why = flow_of(p, f, embryo, x, h);
	}
	switch (why) {
	case REASON_REPLIED:
	case REASON_FORWARDED:
		return forward(p, x, h, why);
	case REASON_NOT_OURS:
		return pass(p, why);
	case REASON_NO_BACKEND:
		/*
		 * What belongs to no flow is the kernel's: it may be the end of a handshake by SYN cookie, or a
		 * datagram that wakes the service.
		 */
		if (!svc)
			svc = service_find(&p->key->dst, p->key->dport, p->key->proto);
		if (svc && svc->flags & SVC_SLEEP)
			return pass(p, REASON_HELD);
		return out_of_line(p, SLOW_REFUSE, why);
	case REASON_PORT_REFUSED:
		return out_of_line(p, SLOW_REFUSE, why);
	default:
		return drop(p, why);
	}
}

/* Fragments whose translation is known by their first one. */
static __always_inline int fragment(struct pkt *p)
{
	struct frag *f = frag_find(p);
	struct hop h;

	if (!f) {
		if (!is_vip(&p->key->dst))
			return pass(p, REASON_NOT_OURS);
		return p->tc ? drop(p, REASON_FRAGMENT) : pass(p, REASON_HANDED_TO_TC);
	}
	h = f->hop;
	if (p->ttl <= 1)
		return drop(p, REASON_FRAGMENT);
	if (may_split(p) && !fits(p, &h))
		return too_big(p);
	if (frag_rewrite(p, f))
		return drop(p, REASON_REWRITE);
	return emit(p, &h, f->reason == REASON_REPLIED ? REASON_REPLIED : REASON_FORWARDED);
}

static __always_inline int process(struct pkt *p)
{
	struct iface *dev = iface_of(p->ifindex);
	struct scratch *s = scratch();

	if (!s)
		return verdict_pass(p);
	s->pkt_key = (struct flow_key){};
	p->key = &s->pkt_key;
	p->slot = dev ? dev->slot & (STAT_SLOTS - 1) : 0;
	switch (parse(p)) {
	case PARSED:
		break;
	case PARSED_ADDRS:
		return is_vip(&p->key->dst) ? drop(p, REASON_BAD_PACKET) : pass(p, REASON_MALFORMED);
	case PARSED_FOREIGN:
		return pass(p, REASON_NOT_IP);
	default:
		return pass(p, REASON_MALFORMED);
	}
	pkt_forget(p, s);
	/* An ICMP error may come from any router about any address. */
	if (!is_known(&p->key->dst) && !is_known(&p->key->src) && !icmp_is_error(p))
		return pass(p, REASON_NOT_OURS);
	if (p->key->proto == IPPROTO_TCP || p->key->proto == IPPROTO_UDP)
		return p->fragment && !p->first ? fragment(p) : balance(p);
	if (p->key->proto == (p->v6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP))
		return out_of_line(p, SLOW_ICMP, REASON_NOT_OURS);
	if (p->fragment)
		return is_vip(&p->key->dst) ? drop(p, REASON_FRAGMENT) : pass(p, REASON_NOT_OURS);
	return is_vip(&p->key->dst) ? drop(p, REASON_PROTOCOL) : pass(p, REASON_NOT_OURS);
}

#endif
