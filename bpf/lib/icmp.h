/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef FL_ICMP_H
#define FL_ICMP_H

#include "emit.h"
#include "rewrite.h"
#include "direct.h"
#include "parse.h"

/*
 * ICMP errors about translated packets. The quoted packet went the other way:
 * its tuple, reversed, is the key of the flow entry that translates the error
 * itself. Only the 8 bytes of RFC 792 are relied on.
 */

struct quote {
	struct flow_key *key; /* of the quoted packet, reversed */
	__u32 l3;
	__u32 l4;
};

static __always_inline bool icmp_is_error(const struct pkt *p)
{
	if (p->v6)
		return p->key->proto == IPPROTO_ICMPV6 && p->icmp_type >= ICMP6_DEST_UNREACH && p->icmp_type <= ICMP6_PARAMPROB;
	return p->key->proto == IPPROTO_ICMP &&
	       (p->icmp_type == ICMP_DEST_UNREACH || p->icmp_type == ICMP_TIME_EXCEEDED || p->icmp_type == ICMP_PARAMETERPROB);
}

/* Does an ICMP error say that the quoted packet's destination is not there? */
static __always_inline bool icmp_is_unreachable(const struct pkt *p)
{
	struct icmphdr *ih = p->data + p->l4;

	opaque(ih);
	if ((void *)(ih + 1) > p->end)
		return false;
	if (p->v6)
		return p->icmp_type == ICMP6_DEST_UNREACH;
	return p->icmp_type == ICMP_DEST_UNREACH && ih->code != ICMP_FRAG_NEEDED;
}

static __always_inline int quote_parse(const struct pkt *p, struct quote *q)
{
	__be16 *l4;

	q->l3 = p->l4 + sizeof(struct icmphdr);
	if (p->v6) {
		struct ipv6hdr *ip6 = p->data + q->l3;

		if ((void *)(ip6 + 1) > p->end || ip6->version != 6)
			return -1;
		__builtin_memcpy(&q->key->dst, &ip6->saddr, sizeof(q->key->dst));
		__builtin_memcpy(&q->key->src, &ip6->daddr, sizeof(q->key->src));
		q->key->proto = ip6->nexthdr;
		q->l4 = q->l3 + sizeof(*ip6);
		if (ip6->nexthdr == IPPROTO_FRAGMENT) {
			struct ext_header *eh = p->data + q->l4;

			/* Only the first one has ports. */
			if ((void *)(eh + 1) > p->end || eh->frag & bpf_htons(0xfff8))
				return -1;
			q->key->proto = eh->next;
			q->l4 += sizeof(*eh);
		}
	} else {
		struct iphdr *iph = p->data + q->l3;

		if ((void *)(iph + 1) > p->end || iph->version != 4 || iph->ihl < 5 || iph->frag_off & bpf_htons(0x1fff))
			return -1;
		addr_map4(&q->key->dst, iph->saddr);
		addr_map4(&q->key->src, iph->daddr);
		q->key->proto = iph->protocol;
		q->l4 = q->l3 + (__u32)iph->ihl * 4;
	}
	if (q->key->proto != IPPROTO_TCP && q->key->proto != IPPROTO_UDP)
		return -1;
	l4 = p->data + q->l4;
	if ((void *)(l4 + 4) > p->end)
		return -1;
	q->key->dport = l4[0];
	q->key->sport = l4[1];
	return 0;
}

/* The quote was sent as x reversed: put that back, and count what changed. */
static __always_inline int quote_rewrite(struct pkt *p, const struct quote *q, const struct xlate *x, __u64 *diff)
{
	__be16 *l4;

	*diff = csum_diff32(0, q->key->dport, x->dport) + (__u32)~q->key->sport + x->sport;
	if (p->v6) {
		struct ipv6hdr *ip6 = p->data + q->l3;

		opaque(ip6);
		if ((void *)(ip6 + 1) > p->end)
			return -1;
		__builtin_memcpy(&ip6->saddr, &x->dst, sizeof(x->dst));
		__builtin_memcpy(&ip6->daddr, &x->src, sizeof(x->src));
		*diff += csum_diff_addrs(p->v6, &q->key->src, &q->key->dst, &x->src, &x->dst);
	} else {
		struct iphdr *iph = p->data + q->l3;

		opaque(iph);
		if ((void *)(iph + 1) > p->end)
			return -1;
		/* The inner header checksum cancels the inner addresses out. */
		csum_apply(&iph->check, csum_diff_addrs(p->v6, &q->key->src, &q->key->dst, &x->src, &x->dst));
		iph->saddr = x->dst.w[3];
		iph->daddr = x->src.w[3];
	}
	l4 = p->data + q->l4;
	opaque(l4);
	if ((void *)(l4 + 2) > p->end)
		return -1;
	l4[0] = x->dport;
	l4[1] = x->sport;
	return 0;
}

static __always_inline int icmp_rewrite(struct pkt *p, const struct quote *q, const struct xlate *x, const struct addr *src)
{
	__u64 addrs = csum_diff_addrs(p->v6, &p->key->src, &p->key->dst, src, &x->dst), diff;
	struct icmphdr *ih;

	if (quote_rewrite(p, q, x, &diff))
		return -1;
	ih = p->data + p->l4;
	opaque(ih);
	if ((void *)(ih + 1) > p->end)
		return -1;
	csum_apply(&ih->checksum, p->v6 ? diff + addrs : diff);
	return ip_rewrite(p, src, &x->dst, addrs);
}

/*
 * Translates an ICMP error that concerns a flow. The sender of an error towards
 * a client becomes the VIP if it was the backend itself; a router keeps its own
 * address, as traceroute needs it.
 */
static __always_inline int icmp_error(struct pkt *p, bool *handled)
{
	struct scratch *s = scratch();
	struct quote q = {};
	struct service *svc;
	struct backend *b;
	enum owner owner;
	struct flow *f;
	struct addr *src;
	struct xlate *x;
	struct hop *h;
	bool embryo;

	if (!s)
		return 0;
	x = &s->xlate;
	h = &s->hop;
	src = &s->icmp_src;
	h->how = EXIT_NONE;
	s->quote_key = (struct flow_key){};
	q.key = &s->quote_key;
	if (quote_parse(p, &q))
		return 0;
	f = flow_find(q.key, LOOK_ANY, &embryo);
	if (!f) {
		svc = q.key->proto == IPPROTO_TCP ? service_find(&q.key->dst, q.key->dport, q.key->proto) : NULL;
		if (!svc || svc->flags & SVC_FLOWS)
			return 0;
		b = direct_backend(q.key, svc, false, &owner);
		if (!b)
			return 0;
		*src = p->key->src;
		xlate_direct(x, q.key, b);
		hop_backend(p, b, h);
	} else if (f->flags & FLOW_REPLY) {
		xlate_of(x, f);
		*src = addr_equal(&p->key->src, &q.key->src) ? x->src : p->key->src;
		hop_client(p, x, f->ifindex, h);
		if (embryo && icmp_is_unreachable(p)) {
			f->state |= FLOW_UNREACHABLE;
			f->seen = bpf_jiffies64();
			if (is_handshake(s, f))
				handshake_note(q.key, LOOK_REPLY, f->state, f->isn);
		}
	} else {
		xlate_of(x, f);
		b = backend_of(&f->dst, f->dport, f->backend);
		*src = p->key->src;
		if (b)
			hop_backend(p, b, h);
	}
	*handled = true;
	if (h->how == EXIT_TO_TC) {
		count(p, REASON_HANDED_TO_TC);
		return XDP_PASS;
	}
	if (h->how == EXIT_NONE || h->how == EXIT_TOO_BIG) {
		count(p, REASON_NO_ROUTE);
		return verdict_drop(p);
	}
	if (p->ttl <= 1 || icmp_rewrite(p, &q, x, src)) {
		count(p, REASON_REWRITE);
		return verdict_drop(p);
	}
	return emit(p, h, REASON_ICMP_FORWARDED);
}

#endif
