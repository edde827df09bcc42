/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef FL_QUICK_H
#define FL_QUICK_H

#include "balance.h"

/*
 * The way of most packets, in few instructions: TCP over IPv4 or IPv6 without
 * options, extension headers, fragments or tags, in the middle of a connection
 * to a service whose table says all (direct.h); and TCP that concerns nobody
 * here. It does to the packet what process() would do, or leaves the whole of
 * it to process(), and decides that before a byte is changed.
 *
 * All it knows of the packet stays in registers and on its own stack. process()
 * hands it on by scratch, and much of what that costs is waiting for its own
 * stores.
 */

/* Not a verdict: process() has the packet. */
#define QUICK_NOT (-2)

/* A TCP segment with any of these is an event of its connection. */
#define TCP_EVENTS (TCP_FIN | TCP_SYN | TCP_RST)

static __always_inline bool quick_parse4(struct pkt *p)
{
	struct iphdr *iph = p->data + ETH_HLEN;

	p->l4 = ETH_HLEN + sizeof(*iph);
	if ((void *)(iph + 1) > p->end)
		return false;
	p->l3_len = bpf_ntohs(iph->tot_len);
	addr_map4(&p->key->src, iph->saddr);
	addr_map4(&p->key->dst, iph->daddr);
	return *(__u8 *)iph == 0x45 && iph->protocol == IPPROTO_TCP && iph->ttl > 1 && !(iph->frag_off & bpf_htons(0x3fff));
}

static __always_inline bool quick_parse6(struct pkt *p)
{
	struct ipv6hdr *ip6 = p->data + ETH_HLEN;

	p->l4 = ETH_HLEN + sizeof(*ip6);
	if ((void *)(ip6 + 1) > p->end)
		return false;
	p->l3_len = sizeof(*ip6) + bpf_ntohs(ip6->payload_len);
	__builtin_memcpy(&p->key->src, &ip6->saddr, sizeof(p->key->src));
	__builtin_memcpy(&p->key->dst, &ip6->daddr, sizeof(p->key->dst));
	return ip6->version == 6 && ip6->nexthdr == IPPROTO_TCP && ip6->hop_limit > 1 && !addr_is4(&p->key->src) &&
	       !addr_is4(&p->key->dst);
}

/* Reads the headers. false: not such a packet as above. */
static __always_inline bool quick_parse(struct pkt *p)
{
	struct tcphdr *th;

	p->l3 = ETH_HLEN;
	if (!(p->v6 ? quick_parse6(p) : quick_parse4(p)))
		return false;
	th = p->data + p->l4;
	if ((void *)(th + 1) > p->end || p->l3 + p->l3_len > p->bytes || th->doff < 5 ||
	    p->l4 + th->doff * 4 > p->l3 + p->l3_len)
		return false;
	p->key->sport = th->source;
	p->key->dport = th->dest;
	p->key->proto = IPPROTO_TCP;
	p->tcp_flags = ((__u8 *)th)[13];
	return true;
}

/* The backend of a packet in mid-connection, where the present table of the service tells it. */
static __always_inline struct backend *quick_backend(const struct pkt *p, const struct service *svc)
{
	__u32 hash, id;
	__u8 *pending;

	if (svc->flags & (SVC_FLOWS | SVC_WAKES) || svc->olds || is_martian(p->key))
		return NULL;
	hash = hash_flow(p->key, hash_seed);
	pending = flow_pending(hash);
	if (!pending || *pending)
		return NULL; /* it may be the end of a handshake */
	return backend_at(svc, hash, &id);
}

static __always_inline int quick_family(struct pkt *p)
{
	enum reason why = REASON_FORWARDED;
	struct service_key vip = {};
	struct service *svc;
	struct backend *b;
	struct xlate x;
	struct hop h;
	int act;

	if (!quick_parse(p))
		return QUICK_NOT;
	if (!is_known(&p->key->dst)) {
		if (is_known(&p->key->src))
			return QUICK_NOT;
		count_reason(p, REASON_NOT_OURS);
		return verdict_pass(p);
	}
	if (p->tcp_flags & TCP_EVENTS)
		return QUICK_NOT;
	vip.vip = p->key->dst;
	vip.port = p->key->dport;
	vip.proto = IPPROTO_TCP;
	svc = bpf_map_lookup_elem(&fl_services, &vip);
	b = svc ? quick_backend(p, svc) : NULL;
	if (!b || addr_equal(&b->addr, &p->key->src))
		return QUICK_NOT;
	hop_backend(p, b, &h);
	if ((h.how != EXIT_REDIRECT && h.how != EXIT_PEER) || !fits(p, &h))
		return QUICK_NOT;
	xlate_direct(&x, p->key, b);
	count_bytes(svc->id, p->bytes, false);
	if (rewrite(p, &x)) {
		why = REASON_REWRITE;
		act = verdict_drop(p);
	} else {
		act = emit_by(p, &h, &why);
	}
	count_reason(p, why);
	return act;
}

static __always_inline int quick(struct pkt *p)
{
	struct ethhdr *eth = p->data;
	struct flow_key key = {};
	struct iface *dev;

	if (fl_trace_on || (void *)(eth + 1) > p->end)
		return QUICK_NOT;
	p->key = &key;
	dev = iface_of(p->ifindex);
	p->slot = dev ? dev->slot & (STAT_SLOTS - 1) : 0;
	if (eth->h_proto == bpf_htons(ETH_P_IP))
		return quick_family(p);
	if (eth->h_proto != bpf_htons(ETH_P_IPV6))
		return QUICK_NOT;
	p->v6 = true;
	return quick_family(p);
}

#endif
