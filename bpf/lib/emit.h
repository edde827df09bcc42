/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef FL_EMIT_H
#define FL_EMIT_H

#include <linux/pkt_cls.h>

#include "stats.h"

#define FL_AF_INET 2
#define FL_AF_INET6 10

/* Does the kernel have bpf_check_mtu (5.12)? */
volatile const bool has_check_mtu;

/* Every link carries this much (RFC 8200, 5): what is smaller is not asked about. */
#define LEAST_MTU 1280

/* The longest IP packet that this one is on a wire: a segment of it, where the stack joined some (GSO). */
static __always_inline __u32 wire_len(const struct pkt *p)
{
	struct __sk_buff *skb = p->ctx;
	struct tcphdr *th = p->data + p->l4;
	__u32 headers = p->l4 - p->l3;

	if (!p->tc || !skb->gso_size)
		return p->l3_len;
	if (p->key->proto != IPPROTO_TCP)
		return headers + sizeof(struct udphdr) + skb->gso_size;
	opaque(th);
	if ((void *)(th + 1) > p->end)
		return p->l3_len;
	return headers + (__u32)th->doff * 4 + skb->gso_size;
}

/*
 * Does the packet fit the interface it is to leave by? Into a namespace of this
 * machine anything does: there is no wire, and the kernel does not ask either.
 */
static __always_inline bool fits(const struct pkt *p, const struct hop *h)
{
	struct scratch *s = scratch();

	if (!has_check_mtu || p->l3_len <= LEAST_MTU || h->how == EXIT_PEER || !s)
		return true;
	/* Asked about one byte, it tells the MTU; about a packet that the stack joined, it finds any length right. */
	s->mtu = 1;
	return bpf_check_mtu(p->ctx, h->ifindex, &s->mtu, 0, 0) < 0 || wire_len(p) <= s->mtu;
}

/* The way to a backend stands in its entry, kept by the agent. */
static __always_inline void hop_backend(const struct pkt *p, const struct backend *b, struct hop *h)
{
	h->ifindex = b->ifindex;
	__builtin_memcpy(h->dmac, b->dmac, sizeof(h->dmac));
	__builtin_memcpy(h->smac, b->smac, sizeof(h->smac));
	if (!b->ifindex)
		h->how = EXIT_NONE;
	else if (!p->tc)
		h->how = (b->flags & (BE_MAC | BE_XDP)) == (BE_MAC | BE_XDP) ? EXIT_REDIRECT : EXIT_TO_TC;
	else if (b->flags & BE_PEER)
		h->how = EXIT_PEER;
	else
		h->how = b->flags & BE_MAC ? EXIT_REDIRECT : EXIT_NEIGHBOR;
}

/*
 * The way to a client is the kernel's route. Where forwarding is off on the
 * interface (fairlead needs no sysctl), replies leave as requests came.
 */
static __always_inline void hop_client(const struct pkt *p, const struct xlate *x, __u32 from_ifindex, struct hop *h)
{
	struct scratch *s = scratch();
	struct bpf_fib_lookup *fib;
	struct iface *dev;
	long ret;

	if (!s)
		return;
	fib = &s->fib;
	__builtin_memset(fib, 0, sizeof(*fib));
	fib->ifindex = p->ifindex;
	fib->l4_protocol = p->key->proto;
	fib->sport = x->sport;
	fib->dport = x->dport;
	if (p->v6) {
		fib->family = FL_AF_INET6;
		__builtin_memcpy(fib->ipv6_src, &x->src, sizeof(fib->ipv6_src));
		__builtin_memcpy(fib->ipv6_dst, &x->dst, sizeof(fib->ipv6_dst));
	} else {
		fib->family = FL_AF_INET;
		fib->ipv4_src = x->src.w[3];
		fib->ipv4_dst = x->dst.w[3];
	}
	fib->tot_len = wire_len(p);
	ret = bpf_fib_lookup(p->ctx, fib, sizeof(*fib), 0);
	if (ret == BPF_FIB_LKUP_RET_FRAG_NEEDED) {
		/* Before Linux 5.12 it does not say what would fit. */
		s->mtu = has_check_mtu ? fib->mtu_result : p->v6 ? LEAST_MTU : 0;
		h->how = EXIT_TOO_BIG;
		return;
	}
	if (!p->tc) {
		dev = ret == BPF_FIB_LKUP_RET_SUCCESS ? iface_of(fib->ifindex) : NULL;
		h->how = dev && dev->flags & IFACE_XDP_XMIT ? EXIT_REDIRECT : EXIT_TO_TC;
	} else if (ret == BPF_FIB_LKUP_RET_SUCCESS) {
		dev = iface_of(fib->ifindex);
		h->how = dev && dev->flags & IFACE_PEER ? EXIT_PEER : EXIT_REDIRECT;
	} else if (ret == BPF_FIB_LKUP_RET_NO_NEIGH) {
		h->how = EXIT_NEIGHBOR;
	} else if (ret == BPF_FIB_LKUP_RET_FWD_DISABLED || ret == BPF_FIB_LKUP_RET_NOT_FWDED) {
		fib->ifindex = from_ifindex;
		h->how = from_ifindex ? EXIT_NEIGHBOR : EXIT_NONE;
	} else {
		h->how = EXIT_NONE;
	}
	h->ifindex = fib->ifindex;
	__builtin_memcpy(h->dmac, fib->dmac, sizeof(h->dmac));
	__builtin_memcpy(h->smac, fib->smac, sizeof(h->smac));
}

static __always_inline int emit_xdp(struct pkt *p, const struct hop *h)
{
	struct ethhdr *eth;
	__u32 tags = (__u32)p->vlans * sizeof(__be32);

	/* The tags belong to the wire the packet came from. */
	if (tags && bpf_xdp_adjust_head(p->ctx, tags))
		return XDP_ABORTED;
	pkt_reload(p);
	eth = p->data;
	if ((void *)(eth + 1) > p->end)
		return XDP_ABORTED;
	__builtin_memcpy(eth->h_dest, h->dmac, ETH_ALEN);
	__builtin_memcpy(eth->h_source, h->smac, ETH_ALEN);
	eth->h_proto = p->v6 ? bpf_htons(ETH_P_IPV6) : bpf_htons(ETH_P_IP);
	if (h->ifindex == p->ifindex)
		return XDP_TX;
	return bpf_redirect(h->ifindex, 0);
}

static __always_inline int emit_tc(struct pkt *p, const struct hop *h)
{
	struct __sk_buff *skb = p->ctx;
	struct ethhdr *eth;

	for (int i = 0; i < 2; i++)
		if (skb->vlan_present && bpf_skb_vlan_pop(skb))
			return TC_ACT_SHOT;
	if (h->how == EXIT_NEIGHBOR)
		return bpf_redirect_neigh(h->ifindex, NULL, 0, 0);
	pkt_reload(p);
	eth = p->data;
	if ((void *)(eth + 1) > p->end)
		return TC_ACT_SHOT;
	__builtin_memcpy(eth->h_dest, h->dmac, ETH_ALEN);
	__builtin_memcpy(eth->h_source, h->smac, ETH_ALEN);
	if (h->how == EXIT_PEER)
		return bpf_redirect_peer(h->ifindex, 0);
	return bpf_redirect(h->ifindex, 0);
}

static __always_inline int verdict_pass(const struct pkt *p)
{
	return p->tc ? TC_ACT_UNSPEC : XDP_PASS;
}

static __always_inline int verdict_drop(const struct pkt *p)
{
	return p->tc ? TC_ACT_SHOT : XDP_DROP;
}

/* Sends a translated packet the way hop says; its own failure is counted. */
static __always_inline int emit(struct pkt *p, const struct hop *h, enum reason why)
{
	int act;

	if (p->tc) {
		act = emit_tc(p, h);
		count(p, act == TC_ACT_SHOT ? REASON_REWRITE : why);
		return act;
	}
	act = emit_xdp(p, h);
	if (act == XDP_ABORTED) {
		count(p, REASON_REWRITE);
		return XDP_DROP;
	}
	count(p, why);
	return act;
}

/* Sends an answer back out of the interface it came in by. */
static __always_inline int emit_back(const struct pkt *p)
{
	return p->tc ? bpf_redirect(p->ifindex, 0) : XDP_TX;
}

#endif
