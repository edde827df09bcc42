/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef FL_ANSWER_H
#define FL_ANSWER_H

#include "emit.h"
#include "rewrite.h"

/*
 * Answers the balancer gives itself: echo replies, RST, ICMP errors. They are
 * made of the packet at hand and leave by the interface it came in by.
 */

#define ANSWER_TTL 64
#define QUOTE_L4 8 /* bytes of the offending L4 header (RFC 792) */
/*
 * Where the stack left a TCP checksum to the hardware the packet cannot end
 * before that field, so more is quoted.
 */
#define QUOTE_TCP sizeof(struct tcphdr)
#define EXT_HEADER 8 /* the one IPv6 extension header that is quoted: that of a fragment is as long */

static __always_inline void mac_swap(struct ethhdr *eth)
{
	__u8 mac[ETH_ALEN];

	__builtin_memcpy(mac, eth->h_dest, ETH_ALEN);
	__builtin_memcpy(eth->h_dest, eth->h_source, ETH_ALEN);
	__builtin_memcpy(eth->h_source, mac, ETH_ALEN);
}

/* Swaps the addresses of Ethernet and IP, renews TTL and, for IPv4, the length. */
static __always_inline int headers_turn(struct pkt *p, __u32 l3_len)
{
	struct ethhdr *eth = p->data;

	opaque(eth);
	if ((void *)(eth + 1) > p->end)
		return -1;
	mac_swap(eth);
	if (p->v6) {
		struct ipv6hdr *ip6 = p->data + p->l3;

		if ((void *)(ip6 + 1) > p->end)
			return -1;
		__builtin_memcpy(&ip6->saddr, &p->key->dst, sizeof(ip6->saddr));
		__builtin_memcpy(&ip6->daddr, &p->key->src, sizeof(ip6->daddr));
		ip6->payload_len = bpf_htons(l3_len - sizeof(*ip6));
		ip6->hop_limit = ANSWER_TTL;
		return 0;
	}
	struct iphdr *iph = p->data + p->l3;
	__u16 old, *ttl_proto;
	__u64 diff;

	if ((void *)(iph + 1) > p->end)
		return -1;
	diff = csum_diff32(0, iph->tot_len, bpf_htons(l3_len));
	iph->tot_len = bpf_htons(l3_len);
	ttl_proto = (__u16 *)&iph->ttl;
	old = *ttl_proto;
	iph->ttl = ANSWER_TTL;
	diff = csum_diff32(diff, old, *ttl_proto);
	iph->saddr = p->key->dst.w[3];
	iph->daddr = p->key->src.w[3];
	csum_apply(&iph->check, diff);
	return 0;
}

static __always_inline int answer_echo(struct pkt *p)
{
	__u8 reply = p->v6 ? ICMP6_ECHOREPLY : ICMP_ECHOREPLY;
	struct icmphdr *ih = p->data + p->l4;
	__u16 old, *type_code;

	if (headers_turn(p, p->l3_len))
		return -1;
	if ((void *)(ih + 1) > p->end)
		return -1;
	type_code = (__u16 *)&ih->type;
	old = *type_code;
	ih->type = reply;
	csum_apply(&ih->checksum, csum_diff32(0, old, *type_code));
	/* Only an answer of nothing but zeros cares which of the two zeros it is. */
	if (!ih->checksum)
		ih->checksum = 0xffff;
	return 0;
}

static __always_inline int pkt_trim(struct pkt *p, __u32 len)
{
	int err;

	if (p->tc)
		err = bpf_skb_change_tail(p->ctx, len, 0);
	else
		err = bpf_xdp_adjust_tail(p->ctx, (int)len - (int)p->bytes);
	pkt_reload(p);
	return err;
}

static __always_inline __u64 csum_pseudo(const struct addr *a, const struct addr *b, bool v6, __u8 proto, __u32 len)
{
	__u64 sum = bpf_htonl(len) + (__u64)bpf_htonl(proto);

	sum += (__u64)a->w[3] + b->w[3];
	if (v6) {
		for (int i = 0; i < 3; i++)
			sum += (__u64)a->w[i] + b->w[i];
	}
	return sum;
}

/*
 * Did the stack leave the checksum to the hardware (CHECKSUM_PARTIAL)? Then
 * the field holds the folded pseudo-header sum; a program cannot ask, and the
 * hardware will add what it finds there. A whole checksum looks the same once
 * in 65 536.
 */
static __always_inline bool csum_is_partial(const struct pkt *p, __u16 field, __u32 l4_len)
{
	return p->tc && field == csum_fold16(csum_pseudo(&p->key->src, &p->key->dst, p->v6, p->key->proto, l4_len));
}

static __always_inline __u64 csum_words(const void *data, __u32 words)
{
	const __u32 *w = data;
	__u64 sum = 0;

	for (__u32 i = 0; i < words; i++)
		sum += w[i];
	return sum;
}

/* RFC 9293, 3.5.2 and 3.10.7.1: a reset the sender believes. */
static __always_inline int answer_rst(struct pkt *p)
{
	struct tcphdr *th = p->data + p->l4;
	__u32 l4_len = p->l3_len - (p->l4 - p->l3), segment;
	__u64 pseudo;
	bool partial;

	if ((void *)(th + 1) > p->end || (p->v6 && p->l4 - p->l3 != sizeof(struct ipv6hdr)))
		return -1;
	partial = csum_is_partial(p, th->check, l4_len);
	segment = l4_len - (__u32)th->doff * 4 + th->syn + th->fin;
	if (pkt_trim(p, p->l4 + sizeof(*th)))
		return -1;
	th = p->data + p->l4;
	if ((void *)(th + 1) > p->end)
		return -1;
	if (th->ack) {
		th->seq = th->ack_seq;
		th->ack_seq = 0;
		((__u8 *)th)[13] = TCP_RST;
	} else {
		th->ack_seq = bpf_htonl(bpf_ntohl(th->seq) + segment);
		th->seq = 0;
		((__u8 *)th)[13] = TCP_RST | TCP_ACK;
	}
	th->source = p->key->dport;
	th->dest = p->key->sport;
	((__u8 *)th)[12] = sizeof(*th) / 4 << 4;
	th->window = 0;
	th->urg_ptr = 0;
	th->check = 0;
	pseudo = csum_pseudo(&p->key->src, &p->key->dst, p->v6, IPPROTO_TCP, sizeof(*th));
	if (partial)
		th->check = csum_fold16(pseudo);
	else
		th->check = ~csum_fold16(pseudo + csum_words(th, sizeof(*th) / 4));
	return headers_turn(p, p->l4 - p->l3 + sizeof(*th));
}

/* Makes room for outer headers of len bytes between Ethernet and IP. */
static __always_inline int pkt_push(struct pkt *p, __u32 len)
{
	int err;

	if (p->tc) {
		err = bpf_skb_adjust_room(p->ctx, len, BPF_ADJ_ROOM_MAC, 0);
		pkt_reload(p);
		return err;
	}
	struct ethhdr eth, *to;

	to = p->data;
	if ((void *)(to + 1) > p->end)
		return -1;
	eth = *to;
	err = bpf_xdp_adjust_head(p->ctx, -(int)len);
	pkt_reload(p);
	to = p->data;
	if (err || (void *)(to + 1) > p->end)
		return -1;
	*to = eth;
	return 0;
}

/*
 * The sum of a quote as the receiver will see it. Where the checksum inside
 * is left to the hardware, the hardware makes what follows the IP header sum up
 * to the complement of the pseudo-header sum they hold now.
 */
static __always_inline __u64 quote_sum(const void *quote, __u32 ip_len, bool partial, __u16 field)
{
	__u64 sum = csum_words(quote, ip_len / 4);

	return sum + (partial ? (__u16)~field : csum_words(quote + ip_len, QUOTE_L4 / 4));
}

static __always_inline bool l4_is_partial(const struct pkt *p, __u16 *field)
{
	struct udphdr *uh = p->data + p->l4;
	struct tcphdr *th = p->data + p->l4;

	if (p->key->proto == IPPROTO_TCP) {
		opaque(th);
		if ((void *)(th + 1) > p->end)
			return false;
		*field = th->check;
		return csum_is_partial(p, th->check, p->l3_len - (p->l4 - p->l3));
	}
	if (p->key->proto != IPPROTO_UDP || (void *)(uh + 1) > p->end)
		return false;
	*field = uh->check;
	return csum_is_partial(p, uh->check, bpf_ntohs(uh->len));
}

/* An ICMP error with a quote of the whole IP header and 8 bytes (RFC 792, RFC 4443). */
static __always_inline int answer_icmp4(struct pkt *p, __u8 type, __u8 code, __u32 rest)
{
	struct {
		struct iphdr ip;
		struct icmphdr icmp;
	} *out;
	__u32 quote = sizeof(struct iphdr) + QUOTE_L4;
	struct ethhdr *eth;
	__u16 field = 0;
	bool partial;
	__u64 sum;

	if (p->vlans || p->l4 - p->l3 != sizeof(struct iphdr))
		return -1;
	partial = l4_is_partial(p, &field);
	if (partial && p->key->proto == IPPROTO_TCP)
		quote += QUOTE_TCP - QUOTE_L4;
	if (pkt_trim(p, sizeof(struct ethhdr) + quote) || pkt_push(p, sizeof(*out)))
		return -1;
	eth = p->data;
	out = p->data + sizeof(*eth);
	if ((void *)(out + 1) + sizeof(struct iphdr) + QUOTE_L4 > p->end)
		return -1;
	mac_swap(eth);
	sum = quote_sum(out + 1, sizeof(struct iphdr), partial, field);
	__builtin_memset(out, 0, sizeof(*out));
	out->ip.version = 4;
	out->ip.ihl = sizeof(out->ip) / 4;
	out->ip.tot_len = bpf_htons(sizeof(*out) + quote);
	out->ip.ttl = ANSWER_TTL;
	out->ip.protocol = IPPROTO_ICMP;
	out->ip.saddr = p->key->dst.w[3];
	out->ip.daddr = p->key->src.w[3];
	out->ip.check = ~csum_fold16(csum_words(&out->ip, sizeof(out->ip) / 4));
	out->icmp.type = type;
	out->icmp.code = code;
	out->icmp.rest = bpf_htonl(rest);
	out->icmp.checksum = ~csum_fold16(sum + csum_words(&out->icmp, sizeof(out->icmp) / 4));
	return 0;
}

static __always_inline int answer_icmp6(struct pkt *p, __u8 type, __u8 code, __u32 rest)
{
	struct {
		struct ipv6hdr ip;
		struct icmphdr icmp;
	} *out;
	__u32 ext = p->l4 - p->l3 - sizeof(struct ipv6hdr);
	__u32 quote = sizeof(struct ipv6hdr) + ext + QUOTE_L4;
	struct ethhdr *eth;
	__u16 field = 0;
	bool partial;
	__u64 sum;

	if (p->vlans || (ext && ext != EXT_HEADER))
		return -1;
	partial = !ext && l4_is_partial(p, &field);
	if (partial && p->key->proto == IPPROTO_TCP)
		quote += QUOTE_TCP - QUOTE_L4;
	if (pkt_trim(p, sizeof(struct ethhdr) + quote) || pkt_push(p, sizeof(*out)))
		return -1;
	eth = p->data;
	out = p->data + sizeof(*eth);
	if ((void *)(out + 1) + sizeof(struct ipv6hdr) + QUOTE_L4 > p->end)
		return -1;
	mac_swap(eth);
	sum = quote_sum(out + 1, sizeof(struct ipv6hdr), partial, field);
	if (ext) {
		void *rest_of = (void *)(out + 1) + sizeof(struct ipv6hdr) + QUOTE_L4;

		opaque(rest_of);
		if (rest_of + EXT_HEADER > p->end)
			return -1;
		sum += csum_words(rest_of, EXT_HEADER / 4);
	}
	sum += csum_pseudo(&p->key->dst, &p->key->src, true, IPPROTO_ICMPV6, sizeof(out->icmp) + quote);
	__builtin_memset(out, 0, sizeof(*out));
	out->ip.version = 6;
	out->ip.payload_len = bpf_htons(sizeof(out->icmp) + quote);
	out->ip.nexthdr = IPPROTO_ICMPV6;
	out->ip.hop_limit = ANSWER_TTL;
	__builtin_memcpy(&out->ip.saddr, &p->key->dst, sizeof(out->ip.saddr));
	__builtin_memcpy(&out->ip.daddr, &p->key->src, sizeof(out->ip.daddr));
	out->icmp.type = type;
	out->icmp.code = code;
	out->icmp.rest = bpf_htonl(rest);
	out->icmp.checksum = ~csum_fold16(sum + csum_words(&out->icmp, sizeof(out->icmp) / 4));
	return 0;
}

static __always_inline int answer_unreachable(struct pkt *p)
{
	if (p->v6)
		return answer_icmp6(p, ICMP6_DEST_UNREACH, ICMP6_PORT_UNREACH, 0);
	return answer_icmp4(p, ICMP_DEST_UNREACH, ICMP_PORT_UNREACH, 0);
}

static __always_inline int answer_ttl(struct pkt *p)
{
	if (p->v6)
		return answer_icmp6(p, ICMP6_TIME_EXCEEDED, 0, 0);
	return answer_icmp4(p, ICMP_TIME_EXCEEDED, 0, 0);
}

/* What fits the next link (RFC 1191, RFC 4443). A sender that allows fragments is told, too, where split.h makes none. */
static __always_inline int answer_too_big(struct pkt *p, __u32 mtu)
{
	if (p->v6)
		return answer_icmp6(p, ICMP6_TOO_BIG, 0, mtu);
	return answer_icmp4(p, ICMP_DEST_UNREACH, ICMP_FRAG_NEEDED, mtu);
}

#endif
