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

/*
 * The longest IP packet on a wire that the stack makes of one that it joined
 * (GSO). Apart from its callers, so that the verifier does not follow both.
 */
__noinline __u32 segment_len(struct __sk_buff *ctx, __u32 l3, __u32 l4, __u32 proto)
{
	struct tcphdr *th;

	if (proto != IPPROTO_TCP)
		return l4 - l3 + sizeof(struct udphdr) + ctx->gso_size;
	th = (void *)(long)ctx->data + (l4 & L4_MASK);
	if ((void *)(th + 1) > (void *)(long)ctx->data_end)
		return 0;
	return l4 - l3 + (__u32)th->doff * 4 + ctx->gso_size;
}

/* The longest IP packet that this one is on a wire. */
static __always_inline __u32 wire_len(const struct pkt *p)
{
	struct __sk_buff *skb = p->ctx;

	return p->tc && skb->gso_size ? segment_len(p->ctx, p->l3, p->l4, p->key->proto) : p->l3_len;
}

/* What the agent has said of a link's MTU; 0: nothing. */
static __always_inline __u32 link_mtu(__u32 ifindex)
{
	struct iface *dev = iface_of(ifindex);

	return dev ? dev->mtu : 0;
}

/*
 * Does the packet fit the interface it is to leave by? Into a namespace of this
 * machine anything does, as there is no wire, and the kernel does not ask either;
 * before Linux 5.12 it does, and drops.
 */
static __always_inline bool fits(const struct pkt *p, const struct hop *h)
{
	struct scratch *s = scratch();

	if (p->l3_len <= LEAST_MTU || !s)
		return true;
	if (!has_check_mtu) {
		s->mtu = link_mtu(h->ifindex);
		return !s->mtu || wire_len(p) <= s->mtu;
	}
	if (h->how == EXIT_PEER)
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
		h->how = (b->flags & (BE_MAC | BE_XDP)) == (BE_MAC | BE_XDP) && !p->frags ? EXIT_REDIRECT : EXIT_TO_TC;
	else if (b->flags & BE_PEER)
		h->how = EXIT_PEER;
	else
		h->how = b->flags & BE_MAC ? EXIT_REDIRECT : EXIT_NEIGHBOR;
}

/* Has hop_client asked the kernel whether the packet fits? Before Linux 5.12, of packets that the stack joined, in vain. */
static __always_inline bool fits_client(const struct hop *h)
{
	return has_check_mtu && h->how != EXIT_NEIGHBOR;
}

/*
 * What would fit the way of a packet that does not. Before Linux 5.12 the kernel
 * does not say it: the link's MTU, if that is what is too small, and not a route's.
 */
static __always_inline __u32 mtu_client(const struct pkt *p, struct bpf_fib_lookup *fib)
{
	__u32 mtu;

	if (has_check_mtu)
		return fib->mtu_result;
	fib->tot_len = 0; /* any route will do, and its interface is told */
	bpf_fib_lookup(p->ctx, fib, sizeof(*fib), 0);
	mtu = link_mtu(fib->ifindex);
	if (mtu && wire_len(p) > mtu)
		return mtu;
	return p->v6 ? LEAST_MTU : 0;
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
		s->mtu = mtu_client(p, fib);
		h->how = EXIT_TOO_BIG;
		return;
	}
	if (!p->tc) {
		dev = ret == BPF_FIB_LKUP_RET_SUCCESS ? iface_of(fib->ifindex) : NULL;
		h->how = dev && dev->flags & IFACE_XDP_XMIT && !p->frags ? EXIT_REDIRECT : EXIT_TO_TC;
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

/* Sends a translated packet the way hop says. *why is what to count it as: of a failure of its own, REASON_REWRITE. */
static __always_inline int emit_by(struct pkt *p, const struct hop *h, enum reason *why)
{
	int act = p->tc ? emit_tc(p, h) : emit_xdp(p, h);

	if (act != (p->tc ? TC_ACT_SHOT : XDP_ABORTED))
		return act;
	*why = REASON_REWRITE;
	return verdict_drop(p);
}

static __always_inline int emit(struct pkt *p, const struct hop *h, enum reason why)
{
	int act = emit_by(p, h, &why);

	count(p, why);
	return act;
}

/* Sends an answer back out of the interface it came in by. */
static __always_inline int emit_back(const struct pkt *p)
{
	return p->tc ? bpf_redirect(p->ifindex, 0) : XDP_TX;
}

#endif
