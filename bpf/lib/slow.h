/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef FL_SLOW_H
#define FL_SLOW_H

#include "answer.h"
#include "icmp.h"

/*
 * What is rare lies out of line: the balancer's own answers and ICMP. The
 * verifier checks these functions once, apart from the hot path, and the hot
 * path stays short. The parsed packet goes over by scratch.
 */

enum slow {
	SLOW_REFUSE, /* a packet to a VIP that nobody will get */
	SLOW_TTL, /* its time to live ends here */
	SLOW_ICMP, /* an echo request, or an error about a flow */
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

static __always_inline int slow(void *ctx, bool tc, enum slow what, enum reason why)
{
	struct pkt p = { .ctx = ctx, .tc = tc };
	struct scratch *s = scratch();

	if (!s)
		return verdict_drop(&p);
	p.key = &s->slow_key;
	p.bytes = s->slow.bytes;
	p.l3 = s->slow.l3 & L3_MASK;
	p.l4 = s->slow.l4 & L4_MASK;
	p.l3_len = s->slow.l3_len;
	p.ifindex = s->slow.ifindex;
	p.slot = s->slow.slot & (STAT_SLOTS - 1);
	p.v6 = s->slow.v6;
	p.vlans = s->slow.vlans & 3;
	p.ttl = s->slow.ttl;
	p.tcp_flags = s->slow.tcp_flags;
	p.icmp_type = s->slow.icmp_type;
	pkt_reload(&p);
	switch (what) {
	case SLOW_REFUSE:
		return refuse(&p, why);
	case SLOW_TTL:
		return answered(&p, answer_ttl(&p), REASON_TTL_EXCEEDED);
	default:
		return control(&p);
	}
}

__noinline int slow_xdp(struct xdp_md *ctx, enum slow what, enum reason why)
{
	return slow(ctx, false, what, why);
}

__noinline int slow_tc(struct __sk_buff *ctx, enum slow what, enum reason why)
{
	return slow(ctx, true, what, why);
}

static __always_inline int out_of_line(const struct pkt *p, enum slow what, enum reason why)
{
	struct scratch *s = scratch();

	if (!s)
		return verdict_drop(p);
	s->slow_key = *p->key;
	s->slow = (struct slow_pkt){ .bytes = p->bytes,
				     .l3 = p->l3,
				     .l4 = p->l4,
				     .l3_len = p->l3_len,
				     .ifindex = p->ifindex,
				     .slot = p->slot,
				     .v6 = p->v6,
				     .vlans = p->vlans,
				     .ttl = p->ttl,
				     .tcp_flags = p->tcp_flags,
				     .icmp_type = p->icmp_type };
	return p->tc ? slow_tc(p->ctx, what, why) : slow_xdp(p->ctx, what, why);
}

#endif
