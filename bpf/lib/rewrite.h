/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef FL_REWRITE_H
#define FL_REWRITE_H

#include "csum.h"
#include "pkt.h"

#ifndef BPF_F_IPV6
#define BPF_F_IPV6 (1ULL << 7)
#endif

/*
 * Does this kernel know BPF_F_IPV6 (6.16)? Without it a checksum that the NIC
 * computed over a whole IPv6 packet (CHECKSUM_COMPLETE) is corrected wrongly.
 */
volatile const bool has_csum_ipv6;

static __always_inline __u32 l4_csum_offset(__u8 proto)
{
	return proto == IPPROTO_TCP ? 16 : 6;
}

/* Are both the same in ones' complement, which has two zeros? */
static __always_inline bool csum_same(__u16 a, __u16 b)
{
	return (a == 0xffff ? 0 : a) == (b == 0xffff ? 0 : b);
}

/* Changes a whole checksum. One of UDP that is 0 means none and stays; a computed 0 becomes 0xffff (RFC 768). */
static __always_inline int l4_csum_apply(struct pkt *p, __u32 off, __u64 diff)
{
	bool udp = p->key->proto == IPPROTO_UDP;
	__u16 *field = p->data + off;

	if ((void *)(field + 1) > p->end)
		return -1;
	if (udp && !*field)
		return 0;
	csum_apply(field, diff);
	if (udp && !*field)
		*field = 0xffff;
	return 0;
}

/*
 * In TC the stack may have left the checksum to the hardware (CHECKSUM_PARTIAL):
 * then the field is the pseudo-header's sum, and what changes in the segment does
 * not concern it. The helper knows. What it made of the field tells which it is,
 * so that it need not be called for the segment, too.
 */
static __always_inline int l4_csum_skb(struct pkt *p, __u32 off, __u64 pseudo, __u64 segment)
{
	__u64 flags = p->key->proto == IPPROTO_UDP ? BPF_F_MARK_MANGLED_0 : 0;
	__u16 *field = p->data + off, was, left;

	if ((void *)(field + 1) > p->end)
		return -1;
	was = *field;
	left = csum_fold16(was + (__u64)csum_fold32(pseudo));
	if (bpf_l4_csum_replace(p->ctx, off, 0, csum_fold32(pseudo),
				flags | BPF_F_PSEUDO_HDR | (p->v6 && has_csum_ipv6 ? BPF_F_IPV6 : 0)))
		return -1;
	pkt_reload(p);
	if (!segment)
		return 0;
	if (csum_same(left, was)) { /* both would have come to this */
		if (bpf_l4_csum_replace(p->ctx, off, 0, csum_fold32(segment), flags))
			return -1;
		pkt_reload(p);
		return 0;
	}
	field = p->data + off;
	opaque(field);
	if ((void *)(field + 1) > p->end)
		return -1;
	return csum_same(*field, left) ? 0 : l4_csum_apply(p, off, segment);
}

/*
 * Corrects an L4 checksum by the change of the pseudo-header and of the segment
 * itself. In XDP the field is always whole.
 */
static __always_inline int l4_csum_update(struct pkt *p, __u64 pseudo, __u64 segment)
{
	__u32 off = p->l4 + l4_csum_offset(p->key->proto);

	return p->tc ? l4_csum_skb(p, off, pseudo, segment) : l4_csum_apply(p, off, pseudo + segment);
}

/* Writes new addresses into the IP header and takes one from the TTL. */
static __always_inline int ip_rewrite(struct pkt *p, const struct addr *src, const struct addr *dst, __u64 addr_diff)
{
	__u16 old, *next_hop;

	if (p->v6) {
		struct ipv6hdr *ip6 = p->data + p->l3;

		opaque(ip6);
		if ((void *)(ip6 + 1) > p->end)
			return -1;
		__builtin_memcpy(&ip6->saddr, src, sizeof(*src));
		__builtin_memcpy(&ip6->daddr, dst, sizeof(*dst));
		next_hop = (__u16 *)&ip6->nexthdr;
		old = *next_hop;
		ip6->hop_limit--;
		/* No header checksum cancels this out of a sum the NIC took over the packet. */
		if (p->tc)
			bpf_csum_update(p->ctx, csum_fold32(csum_diff32(0, old, *next_hop)));
		return 0;
	}
	struct iphdr *iph = p->data + p->l3;
	__u16 *ttl_proto;

	opaque(iph);
	if ((void *)(iph + 1) > p->end)
		return -1;
	ttl_proto = (__u16 *)&iph->ttl;
	old = *ttl_proto;
	*ttl_proto = old - bpf_htons(0x100);
	iph->saddr = src->w[3];
	iph->daddr = dst->w[3];
	csum_apply(&iph->check, csum_diff32(addr_diff, old, (__u16)(old - bpf_htons(0x100))));
	return 0;
}

/* Translates a TCP or UDP packet. After it fails the packet may not be passed on. */
static __always_inline int rewrite(struct pkt *p, const struct xlate *x)
{
	__u64 addrs = csum_diff_addrs(p->v6, &p->key->src, &p->key->dst, &x->src, &x->dst);
	__u64 ports = csum_diff32(0, p->key->sport, x->sport) + (__u32)~p->key->dport + x->dport;
	__be16 *l4;

	if (l4_csum_update(p, addrs, ports))
		return -1;
	l4 = p->data + p->l4;
	opaque(l4);
	if ((void *)(l4 + 2) > p->end)
		return -1;
	l4[0] = x->sport;
	l4[1] = x->dport;
	return ip_rewrite(p, &x->src, &x->dst, addrs);
}

#endif
