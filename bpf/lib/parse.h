/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef FL_PARSE_H
#define FL_PARSE_H

#include "pkt.h"

enum parsed {
	PARSED,		/* key, offsets and flags are valid */
	PARSED_ADDRS,	/* only the addresses are: what follows them is broken */
	PARSED_FOREIGN, /* neither IPv4 nor IPv6 */
	PARSED_BROKEN,	/* not even addresses */
};

#define MAX_VLANS 2
#define MAX_EXT_HEADERS 6

struct vlan_tag {
	__be16 tci;
	__be16 proto;
};

struct ext_header {
	__u8 next;
	__u8 len;
	__be16 frag; /* of a fragment header */
	__be32 id;
};

/*
 * Does the frame end before the IP packet does? Only a packet that does not fit
 * the first buffer is looked for in more of them.
 */
static __always_inline bool cut_short(struct pkt *p)
{
	if (p->l3 + p->l3_len <= p->bytes)
		return false;
	if (p->tc || !has_xdp_frags)
		return true;
	p->frags = true;
	p->bytes = bpf_xdp_get_buff_len(p->ctx);
	return p->l3 + p->l3_len > p->bytes;
}

static __always_inline enum parsed parse_l4(struct pkt *p, __u32 l4_len)
{
	void *l4 = p->data + p->l4;

	switch (p->key->proto) {
	case IPPROTO_TCP: {
		struct tcphdr *th = l4;

		if (l4_len < sizeof(*th) || (void *)(th + 1) > p->end || th->doff < 5 || (__u32)th->doff * 4 > l4_len)
			return PARSED_ADDRS;
		p->key->sport = th->source;
		p->key->dport = th->dest;
		p->tcp_flags = ((__u8 *)th)[13];
		return PARSED;
	}
	case IPPROTO_UDP: {
		struct udphdr *uh = l4;

		if (l4_len < sizeof(*uh) || (void *)(uh + 1) > p->end || bpf_ntohs(uh->len) < sizeof(*uh) ||
		    (bpf_ntohs(uh->len) > l4_len && !p->fragment))
			return PARSED_ADDRS;
		p->key->sport = uh->source;
		p->key->dport = uh->dest;
		return PARSED;
	}
	case IPPROTO_ICMP:
	case IPPROTO_ICMPV6: {
		struct icmphdr *ih = l4;

		if (l4_len < sizeof(*ih) || (void *)(ih + 1) > p->end)
			return PARSED_ADDRS;
		p->icmp_type = ih->type;
		return PARSED;
	}
	}
	return PARSED;
}

static __always_inline enum parsed parse_ip4(struct pkt *p)
{
	struct iphdr *iph = p->data + p->l3;
	__u32 hlen;

	if ((void *)(iph + 1) > p->end)
		return PARSED_BROKEN;
	addr_map4(&p->key->src, iph->saddr);
	addr_map4(&p->key->dst, iph->daddr);
	hlen = (__u32)iph->ihl * 4;
	p->l3_len = bpf_ntohs(iph->tot_len);
	if (iph->version != 4 || hlen < sizeof(*iph) || p->l3_len < hlen || cut_short(p))
		return PARSED_ADDRS;
	p->ttl = iph->ttl;
	p->key->proto = iph->protocol;
	p->l4 = p->l3 + hlen;
	p->fragment = iph->frag_off & bpf_htons(0x3fff);
	p->first = p->fragment && !(iph->frag_off & bpf_htons(0x1fff));
	p->id = iph->id;
	if (p->fragment && !p->first)
		return PARSED;
	return parse_l4(p, p->l3_len - hlen);
}

static __always_inline bool is_ext_header(__u8 next)
{
	return next == IPPROTO_HOPOPTS || next == IPPROTO_ROUTING || next == IPPROTO_DSTOPTS || next == IPPROTO_FRAGMENT;
}

static __always_inline enum parsed parse_ip6(struct pkt *p)
{
	struct ipv6hdr *ip6 = p->data + p->l3;
	__u8 next;

	if ((void *)(ip6 + 1) > p->end)
		return PARSED_BROKEN;
	p->v6 = true;
	__builtin_memcpy(&p->key->src, &ip6->saddr, sizeof(p->key->src));
	__builtin_memcpy(&p->key->dst, &ip6->daddr, sizeof(p->key->dst));
	/* It would be taken for the IPv4 address inside it (RFC 4291: never on a wire). */
	if (addr_is4(&p->key->src) || addr_is4(&p->key->dst))
		return PARSED_BROKEN;
	p->l3_len = sizeof(*ip6) + bpf_ntohs(ip6->payload_len);
	if (ip6->version != 6 || cut_short(p))
		return PARSED_ADDRS;
	p->ttl = ip6->hop_limit;
	p->l4 = p->l3 + sizeof(*ip6);
	next = ip6->nexthdr;
	for (int i = 0; i < MAX_EXT_HEADERS && is_ext_header(next); i++) {
		struct ext_header *eh = p->data + p->l4;

		if ((void *)(eh + 1) > p->end)
			return PARSED_ADDRS;
		if (next == IPPROTO_FRAGMENT) {
			/* An "atomic" fragment (RFC 6946) is a whole packet. */
			p->fragment = eh->frag & bpf_htons(0xfff9);
			p->first = p->fragment && !(eh->frag & bpf_htons(0xfff8));
			p->id = eh->id;
			p->l4 += sizeof(*eh);
		} else {
			p->l4 += ((__u32)eh->len + 1) * 8;
		}
		next = eh->next;
		if (p->fragment)
			break;
	}
	p->key->proto = next;
	if ((p->fragment && !p->first) || is_ext_header(next))
		return PARSED;
	if (p->l4 - p->l3 > p->l3_len || p->l4 > L4_MASK)
		return PARSED_ADDRS;
	return parse_l4(p, p->l3_len - (p->l4 - p->l3));
}

/* Reads Ethernet, VLAN tags (802.1Q, 802.1ad) and everything up to the L4 header. */
static __always_inline enum parsed parse(struct pkt *p)
{
	struct ethhdr *eth = p->data;
	__be16 proto;

	if ((void *)(eth + 1) > p->end)
		return PARSED_BROKEN;
	proto = eth->h_proto;
	p->l3 = sizeof(*eth);
	for (int i = 0; i < MAX_VLANS; i++) {
		struct vlan_tag *tag = p->data + p->l3;

		if (proto != bpf_htons(ETH_P_8021Q) && proto != bpf_htons(ETH_P_8021AD))
			break;
		if ((void *)(tag + 1) > p->end)
			return PARSED_BROKEN;
		proto = tag->proto;
		p->l3 += sizeof(*tag);
		p->vlans++;
	}
	if (proto == bpf_htons(ETH_P_IP))
		return parse_ip4(p);
	if (proto == bpf_htons(ETH_P_IPV6))
		return parse_ip6(p);
	return PARSED_FOREIGN;
}

#endif
