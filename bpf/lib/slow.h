/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef FL_SLOW_H
#define FL_SLOW_H

#include "answer.h"
#include "frag.h"
#include "icmp.h"
#include "split.h"

/*
 * What is rare lies out of line: the balancer's own answers and ICMP. The
 * verifier checks these functions once, apart from the hot path, and neither
 * stands on the other's stack: process() returns what is to be done, and the
 * entry point calls it. The parsed packet goes over by scratch.
 */

enum slow {
	SLOW_REFUSE = 100, /* a packet to a VIP that nobody will get */
	SLOW_TTL,	   /* its time to live ends here */
	SLOW_TOO_BIG,	   /* it does not fit the link it must leave by */
	SLOW_SPLIT,	   /* the same, and it may be fragmented */
	SLOW_ICMP,	   /* an echo request, or an error about a flow */
};

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

/* Says what a host without a listener says. */
static __always_inline int refuse(struct pkt *p, enum reason why)
{
	if (p->key->proto != IPPROTO_TCP)
		return answered(p, answer_unreachable(p), why);
	if (p->tcp_flags & TCP_RST)
		return drop(p, REASON_UNANSWERABLE);
	return answered(p, answer_rst(p), why);
}

/*
 * A fragment of an echo request to a VIP is answered as it is: the checksum in
 * the first one changes by as much as that of a whole message does. The others
 * follow it, so that nothing but echo requests is thrown back.
 */
static __always_inline int echo_part(struct pkt *p)
{
	struct hop none = { .how = EXIT_NONE };
	struct scratch *s = scratch();
	struct frag *f;

	if (!s || !is_vip(&p->key->dst))
		return pass(p, REASON_NOT_OURS);
	if (!p->first) {
		f = frag_find(p);
		if (!f || f->reason != REASON_ECHO_ANSWERED)
			return drop(p, REASON_FRAGMENT);
		return answered(p, headers_turn(p, p->l3_len), REASON_ECHO_ANSWERED);
	}
	if (p->icmp_type != (p->v6 ? ICMP6_ECHO : ICMP_ECHO))
		return drop(p, REASON_FRAGMENT);
	if (is_martian(p->key))
		return drop(p, REASON_MARTIAN);
	s->xlate.src = p->key->dst;
	s->xlate.dst = p->key->src;
	frag_remember(p, &s->xlate, &none, REASON_ECHO_ANSWERED);
	return answered(p, answer_echo(p), REASON_ECHO_ANSWERED);
}

/* ICMP: errors about flows, and the echo of a VIP. */
static __always_inline int control(struct pkt *p)
{
	bool handled = false;
	int act;

	if (p->fragment)
		return echo_part(p);
	if (icmp_is_error(p)) {
		act = icmp_error(p, &handled);
		return handled ? act : pass(p, REASON_NOT_OURS);
	}
	if (p->icmp_type == (p->v6 ? ICMP6_ECHO : ICMP_ECHO) && is_vip(&p->key->dst))
		return is_martian(p->key) ? drop(p, REASON_MARTIAN) : answered(p, answer_echo(p), REASON_ECHO_ANSWERED);
	return pass(p, REASON_NOT_OURS);
}

/* The packet that out_of_line put into scratch. */
static __always_inline void pkt_restore(struct pkt *p, struct scratch *s)
{
	p->key = &s->pkt_key;
	p->bytes = s->slow.bytes;
	p->l3 = s->slow.l3 & L3_MASK;
	p->l4 = s->slow.l4 & L4_MASK;
	p->l3_len = s->slow.l3_len;
	p->ifindex = s->slow.ifindex;
	p->slot = s->slow.slot & (STAT_SLOTS - 1);
	p->v6 = s->slow.v6;
	p->vlans = s->slow.vlans & 3;
	p->ttl = s->slow.ttl;
	p->tcp_flags = s->slow.tcp_flags;
	p->icmp_type = s->slow.icmp_type;
	p->fragment = s->slow.fragment;
	p->first = s->slow.first;
	p->id = s->id; /* of pkt_forget */
	pkt_reload(p);
}

static __always_inline int slow(void *ctx, bool tc, enum slow what)
{
	struct pkt p = { .ctx = ctx, .tc = tc };
	struct scratch *s = scratch();
	int act;

	if (!s)
		return verdict_drop(&p);
	pkt_restore(&p, s);
	switch (what) {
	case SLOW_ICMP:
		return control(&p);
	case SLOW_REFUSE:
		return refuse(&p, s->slow.why);
	case SLOW_TOO_BIG:
		return answered(&p, answer_too_big(&p, s->mtu), REASON_TOO_BIG);
	case SLOW_SPLIT:
		act = split(&p, s->mtu);
		/* Of a later fragment nobody is told (RFC 1122, 3.2.2). */
		return act == SPLIT_NOT && p.fragment && !p.first ? drop(&p, REASON_FRAGMENT) : act;
	default:
		return answered(&p, answer_ttl(&p), REASON_TTL_EXCEEDED);
	}
}

/* Leaves the packet to slow(): what is returned instead of a verdict. */
static __always_inline int out_of_line(const struct pkt *p, enum slow what, enum reason why)
{
	struct scratch *s = scratch();

	if (!s)
		return verdict_drop(p);
	s->slow.bytes = p->bytes;
	s->slow.l3 = p->l3;
	s->slow.l4 = p->l4;
	s->slow.l3_len = p->l3_len;
	s->slow.ifindex = p->ifindex;
	s->slow.slot = p->slot;
	s->slow.v6 = p->v6;
	s->slow.vlans = p->vlans;
	s->slow.ttl = p->ttl;
	s->slow.tcp_flags = p->tcp_flags;
	s->slow.icmp_type = p->icmp_type;
	s->slow.fragment = p->fragment;
	s->slow.first = p->first;
	s->slow.why = why;
	return what;
}

#endif
