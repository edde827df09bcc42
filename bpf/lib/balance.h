/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef FL_BALANCE_H
#define FL_BALANCE_H

#include "answer.h"
#include "frag.h"
#include "icmp.h"
#include "parse.h"

/*
 * What happens to one packet. Before a byte of it is changed the way out is
 * PASS; afterwards it is DROP with a reason.
 */

static __always_inline int pass(const struct pkt *p, enum reason why)
{
	count(p, why);
	return verdict_pass(p);
}

static __always_inline int drop(const struct pkt *p, enum reason why)
{
	count(p, why);
	return verdict_drop(p);
}

static __always_inline int answered(struct pkt *p, int err, enum reason why)
{
	if (err)
		return drop(p, REASON_UNANSWERABLE);
	count(p, why);
	return emit_back(p);
}

/* A packet to a VIP that nobody will get: says so, as a host without a listener does. */
static __always_inline int refuse(struct pkt *p, enum reason why)
{
	if (p->key->proto == IPPROTO_TCP) {
		if (p->tcp_flags & TCP_RST)
			return drop(p, REASON_UNANSWERABLE);
		return answered(p, answer_rst(p), why);
	}
	return answered(p, answer_unreachable(p), why);
}

static __always_inline int forward(struct pkt *p, const struct xlate *x, const struct hop *h, enum reason why)
{
	if (h->how == EXIT_TO_TC)
		return pass(p, REASON_HANDED_TO_TC);
	if (h->how == EXIT_NONE)
		return drop(p, REASON_NO_ROUTE);
	if (p->ttl <= 1)
		return answered(p, answer_ttl(p), REASON_TTL_EXCEEDED);
	if (p->fragment)
		frag_remember(p, x, h, why);
	if (rewrite(p, x))
		return drop(p, REASON_REWRITE);
	return emit(p, h, why);
}

/* May this packet go on along a flow that leads to b? */
static __always_inline bool flow_usable(const struct pkt *p, const struct flow *f, const struct backend *b)
{
	if (!b)
		return false;
	if (p->key->proto == IPPROTO_UDP)
		return !(b->flags & BE_DOWN);
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
			*x = xlate_of(f);
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
	why = flow_open(p, svc, &f);
	if (why != REASON_FORWARDED)
		return why;
	*x = xlate_of(f);
	b = backend_of(&f->dst, f->dport, f->backend);
	if (b)
		hop_backend(p, b, h);
	if (h->how != EXIT_TO_TC)
		count_bytes(f->service, p->bytes, false);
	return REASON_FORWARDED;
}

/* TCP and UDP packets whose headers are whole. */
static __always_inline int balance(struct pkt *p)
{
	struct flow *f;
	struct hop h = {};
	struct xlate x = {};
	enum reason why;
	bool embryo;

	f = flow_find(p->key, &embryo);
	if (f && f->flags & FLOW_REPLY) {
		x = xlate_of(f);
		hop_client(p, &x, f->ifindex, &h);
		if (h.how != EXIT_TO_TC)
			flow_touch(p, f, embryo);
		why = REASON_REPLIED;
	} else {
		why = flow_of(p, f, embryo, &x, &h);
	}
	switch (why) {
	case REASON_REPLIED:
	case REASON_FORWARDED:
		return forward(p, &x, &h, why);
	case REASON_NOT_OURS:
		return pass(p, why);
	case REASON_PORT_REFUSED:
	case REASON_NO_BACKEND:
		return refuse(p, why);
	default:
		return drop(p, why);
	}
}

/* ICMP: errors about flows, and the echo of a VIP. */
static __always_inline int control(struct pkt *p)
{
	bool handled = false;
	int act;

	if (icmp_is_error(p)) {
		act = icmp_error(p, &handled);
		return handled ? act : pass(p, REASON_NOT_OURS);
	}
	if (p->icmp_type == (p->v6 ? ICMP6_ECHO : ICMP_ECHO) && is_vip(&p->key->dst))
		return is_martian(p->key) ? drop(p, REASON_MARTIAN) : answered(p, answer_echo(p), REASON_ECHO_ANSWERED);
	return pass(p, REASON_NOT_OURS);
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
	if (frag_rewrite(p, f))
		return drop(p, REASON_REWRITE);
	return emit(p, &h, f->reason == REASON_REPLIED ? REASON_REPLIED : REASON_FORWARDED);
}

static __always_inline int process(struct pkt *p)
{
	struct iface *dev = iface_of(p->ifindex);

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
	pkt_forget(p);
	/* An ICMP error may come from any router about any address. */
	if (!is_known(&p->key->dst) && !is_known(&p->key->src) && !icmp_is_error(p))
		return pass(p, REASON_NOT_OURS);
	if (p->key->proto == IPPROTO_TCP || p->key->proto == IPPROTO_UDP)
		return p->fragment && !p->first ? fragment(p) : balance(p);
	if (p->fragment)
		return is_vip(&p->key->dst) ? drop(p, REASON_FRAGMENT) : pass(p, REASON_NOT_OURS);
	if (p->key->proto == (p->v6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP))
		return control(p);
	return is_vip(&p->key->dst) ? drop(p, REASON_PROTOCOL) : pass(p, REASON_NOT_OURS);
}

#endif
