/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef FL_QUICK_H
#define FL_QUICK_H

#include "front.h"
#include "known.h"

/*
 * The way of most packets, in few instructions: TCP and UDP over IPv4 or IPv6
 * without options, extension headers, fragments or tags; to a service whose
 * table says all (direct.h), from its SYN to its FIN; in either direction of a
 * confirmed flow; datagrams until the first answer; and what concerns nobody
 * here. It does to the packet what process() would do, or leaves the whole of it
 * to process(), and decides that before a byte is changed. What it noted of the
 * flow until then process() notes once more.
 *
 * What it knows of a packet in the middle of a connection stays in registers and
 * on its own stack. process() hands it on by scratch, and much of what that costs
 * is waiting for its own stores.
 */

/* Not a verdict: process() has the packet. */
#define QUICK_NOT (-2)

/* A packet of a client, and what is found out about it. */
struct quick {
	struct front_read svc;
	__u32 rules; /* not 0: there are more for a new connection than the table */
	struct backend *b;
	__u8 *pending;
	__u32 hash;
	__u32 id; /* of the backend */
};

static __always_inline bool quick_parse4(struct pkt *p)
{
	struct iphdr *iph = p->data + ETH_HLEN;

	p->l4 = ETH_HLEN + sizeof(*iph);
	if ((void *)(iph + 1) > p->end)
		return false;
	p->l3_len = bpf_ntohs(iph->tot_len);
	addr_map4(&p->key->src, iph->saddr);
	addr_map4(&p->key->dst, iph->daddr);
	p->key->proto = iph->protocol;
	return *(__u8 *)iph == 0x45 && iph->ttl > 1 && !(iph->frag_off & bpf_htons(0x3fff));
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
	p->key->proto = ip6->nexthdr;
	return ip6->version == 6 && ip6->hop_limit > 1 && !addr_is4(&p->key->src) && !addr_is4(&p->key->dst);
}

/* Reads the headers. false: not such a packet as above. */
static __always_inline bool quick_parse(struct pkt *p)
{
	struct tcphdr *th;
	struct udphdr *uh;
	__u32 l4_len;

	p->l3 = ETH_HLEN;
	if (!(p->v6 ? quick_parse6(p) : quick_parse4(p)) || p->l3 + p->l3_len > p->bytes || p->l3 + p->l3_len < p->l4)
		return false;
	l4_len = p->l3 + p->l3_len - p->l4;
	th = p->data + p->l4;
	uh = p->data + p->l4;
	switch (p->key->proto) {
	case IPPROTO_TCP:
		if ((void *)(th + 1) > p->end || th->doff < 5 || th->doff * 4 > l4_len)
			return false;
		p->tcp_flags = ((__u8 *)th)[13] & (TCP_SYN | TCP_ACK | TCP_FIN | TCP_RST);
		break;
	case IPPROTO_UDP:
		if ((void *)(uh + 1) > p->end || bpf_ntohs(uh->len) < sizeof(*uh) || bpf_ntohs(uh->len) > l4_len)
			return false;
		break;
	default:
		return false;
	}
	p->key->sport = uh->source;
	p->key->dport = uh->dest;
	return true;
}

/* Finds the backend of a packet where the present table of the service tells it. */
static __always_inline bool quick_backend(const struct pkt *p, struct quick *q)
{
	if (is_martian(p->key))
		return false;
	q->hash = hash_flow(p->key, hash_seed);
	q->pending = flow_pending(q->hash);
	q->b = backend_in(q->svc.base, q->svc.len, q->hash, &q->id);
	return q->pending && q->b && !addr_equal(&q->b->addr, &p->key->src);
}

static __always_inline struct flow_key replies_key(const struct pkt *p, const struct quick *q)
{
	struct flow_key k = { .sport = q->b->port, .dport = p->key->sport, .proto = IPPROTO_TCP };

	k.src = q->b->addr;
	k.dst = p->key->src;
	return k;
}

/*
 * Notes the handshake that a SYN begins or tries again. false: there is more to
 * it. Nobody looks here whether the tuple had a connection before: the backend
 * knows, and only its SYN-ACK makes this one take that one's place
 * (flow_renewed). A flood of SYNs is not worth two lookups each.
 */
static __always_inline bool quick_open(const struct pkt *p, const struct quick *q)
{
	struct flow_key replies;
	struct flow f = { .sport = p->key->dport,
			  .dport = p->key->sport,
			  .backend = q->id,
			  .service = q->svc.id,
			  .ifindex = p->ifindex,
			  .flags = FLOW_REPLY | FLOW_SINGLE,
			  .hash = q->hash,
			  .seen = bpf_jiffies64() };
	int again;

	if (q->rules)
		return false;
	replies = replies_key(p, q);
	f.src = p->key->dst;
	f.dst = p->key->src;
	again = handshake_put(&replies, &f);
	if (again < 0)
		return false;
	if (!again)
		count_connection(q->svc.id, false);
	*q->pending = pending_now();
	return true;
}

/* May this be the end of a handshake? Only by tags: direct_confirm looks at more. */
static __always_inline bool quick_ends(const struct pkt *p, const struct quick *q)
{
	struct flow_key replies;
	__u8 since = *q->pending;

	if (!pending_fresh(since))
		return false;
	replies = replies_key(p, q);
	return handshake_may_be(handshake_hash(&replies));
}

/* The client ends or resets its connection, whose replies have a confirmed entry (else direct_end knows). */
static __always_inline bool quick_leave(const struct pkt *p, const struct quick *q)
{
	struct flow_key replies = replies_key(p, q);
	struct flow *f = bpf_map_lookup_elem(&fl_flows, &replies);
	__u64 tag = recent_tag(&replies);
	struct recent_line *l = recent_line(tag);

	if (!f || !l)
		return false;
	f->state |= p->tcp_flags & TCP_RST ? FLOW_RST : FLOW_FIN_CLIENT;
	recent_clear(l, tag);
	return true;
}

/* Does what there is to do for the flags of the segment. false: that is not all. */
static __always_inline bool quick_flags(const struct pkt *p, const struct quick *q)
{
	if (p->tcp_flags == TCP_SYN)
		return quick_open(p, q);
	if (p->tcp_flags & TCP_SYN || mends())
		return false;
	if (quick_ends(p, q))
		direct_confirm(p, q->b, q->hash);
	return !(p->tcp_flags & (TCP_FIN | TCP_RST)) || quick_leave(p, q);
}

/* Is h a way out, and does the packet fit it? */
static __always_inline bool quick_hop(const struct pkt *p, const struct hop *h, bool reply)
{
	if (h->how != EXIT_NEIGHBOR && h->how != EXIT_REDIRECT && h->how != EXIT_PEER)
		return false;
	return (reply && fits_client(h)) || fits(p, h);
}

/* The way of a packet to a service without SVC_FLOWS. */
static __always_inline bool quick_direct(const struct pkt *p, struct quick *q, struct xlate *x, struct hop *h)
{
	if (!quick_backend(p, q))
		return false;
	hop_backend(p, q->b, h);
	if (!quick_hop(p, h, false) || !quick_flags(p, q))
		return false;
	xlate_direct(x, p->key, q->b);
	count_bytes(q->svc.id, p->bytes, false);
	return true;
}

/* What becomes of a packet of a confirmed flow, or of a SYN-ACK. */
static __always_inline bool quick_known(const struct pkt *p, struct xlate *x, struct known *k)
{
	__u64 tag = recent_tag(p->key);
	struct recent_line *l = recent_line(tag);

	if (!l)
		return false;
	if (p->tcp_flags & TCP_SYN)
		return p->tcp_flags == (TCP_SYN | TCP_ACK) && quick_answer(p, x, k);
	if (p->tcp_flags & (TCP_FIN | TCP_RST))
		return quick_end(p, l, tag, x, k);
	if (quick_recent(p, l, tag, x, k))
		return true;
	k->b = NULL;
	if (quick_line(p, x, k))
		return true;
	k->b = NULL;
	return quick_entry(p, l, tag, x, k);
}

/* The way of such a packet. */
static __always_inline bool quick_flow(const struct pkt *p, struct xlate *x, struct hop *h, enum reason *why)
{
	struct known k = {};

	if (!quick_known(p, x, &k))
		return false;
	if (k.b) {
		if (!backend_usable(p, k.b))
			return false;
		hop_backend(p, k.b, h);
	} else {
		*why = REASON_REPLIED;
		hop_client(p, x, k.ifindex, h);
	}
	if (!quick_hop(p, h, !k.b))
		return false;
	if (k.answers)
		handshake_note(p->key, LOOK_REPLY, FLOW_ANSWERED, 0);
	count_bytes(k.service, p->bytes, !k.b);
	return true;
}

/* How the packets of a client find their backend. */
enum way {
	WAY_TABLE, /* by the table of the service, which is known now */
	WAY_FLOW,  /* by their flow's entry */
	WAY_OTHER, /* there is more to it */
};

static __always_inline enum way quick_service(const struct pkt *p, struct quick *q)
{
	struct service_key vip = { .port = p->key->dport, .proto = IPPROTO_TCP };
	struct service *svc;

	q->svc = front_find(&p->key->dst, p->key->dport);
	if (q->svc.len)
		return WAY_TABLE;
	vip.vip = p->key->dst;
	svc = bpf_map_lookup_elem(&fl_services, &vip);
	if (!svc)
		return WAY_FLOW;
	if (svc->flags & SVC_FLOWS)
		return svc->flags & SVC_WAKES ? WAY_OTHER : WAY_FLOW;
	if (svc->flags & SVC_WAKES || svc->olds)
		return WAY_OTHER;
	q->svc.id = svc->id;
	q->svc.base = svc->base;
	q->svc.len = svc->len;
	q->rules = svc->flags & SVC_ALLOW || svc->rate;
	return WAY_TABLE;
}

/* to_us: the destination may be an address of a service. */
static __always_inline bool quick_way(const struct pkt *p, bool to_us, struct xlate *x, struct hop *h, enum reason *why)
{
	enum way way = WAY_FLOW;
	struct quick q = {};

	/* Services over UDP have entries for all. */
	if (to_us && p->key->proto == IPPROTO_TCP)
		way = quick_service(p, &q);
	if (way == WAY_FLOW)
		return quick_flow(p, x, h, why);
	return way == WAY_TABLE && quick_direct(p, &q, x, h);
}

static __always_inline int quick_family(struct pkt *p)
{
	enum reason why = REASON_FORWARDED;
	struct xlate x = {}; /* before Linux 6.1 the verifier wants each byte written before it is read */
	struct hop h = {};
	bool to_us;
	int act;

	if (!quick_parse(p))
		return QUICK_NOT;
	to_us = is_known(&p->key->dst);
	if (!to_us && !is_known(&p->key->src)) {
		count_reason(p, REASON_NOT_OURS);
		return verdict_pass(p);
	}
	if (!quick_way(p, to_us, &x, &h, &why))
		return QUICK_NOT;
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
