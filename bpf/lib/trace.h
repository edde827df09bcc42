/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef FL_TRACE_H
#define FL_TRACE_H

#include "pkt.h"

/*
 * Tells the agent what becomes of live packets while somebody watches. An event
 * is built in the ring buffer itself: the programs' stack is nearly full. None
 * of this is pinned: it ends with the agent (pkg/bpf/trace.go).
 */

/*
 * Variables are an array of one that is read without a lookup: tracing costs a
 * load and a jump where it is off.
 */
#define TRACE_DATA SEC(".data.trace")

volatile __u64 fl_trace_on TRACE_DATA;	  /* which reasons are told, a bit each; 0: off */
volatile __u64 fl_trace_until TRACE_DATA; /* ns: later nobody reads; the agent moves it on while it does */
volatile __u64 fl_trace_lost TRACE_DATA;  /* events that found no room */
_Static_assert(REASON_MAX <= 64, "every reason has a bit in fl_trace_on");

/* Conditions that are set must all be met. */
enum {
	TRACE_CLIENT = 1 << 0, /* from or to this address */
	TRACE_ENDS = 1 << 1,   /* from or to something in fl_trace_ends */
};

struct trace_filter {
	struct addr client;
	__u32 match;
};
_Static_assert(sizeof(struct trace_filter) == 20, "trace_filter has no hole");

struct trace_filter fl_trace_filter TRACE_DATA;

/* Addresses and ports of the service that is watched; port 0 and proto 0: any of the address. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct service_key);
	__type(value, __u32);
	__uint(max_entries, 1 << 16);
	__uint(map_flags, BPF_F_NO_PREALLOC | BPF_F_RDONLY_PROG);
} fl_trace_ends SEC(".maps");

struct trace_event {
	__u64 time;	     /* ns, monotonic */
	struct flow_key key; /* as the packet arrived; zero as far as it could not be read */
	struct addr src;     /* as it leaves, if it was translated; otherwise zero */
	struct addr dst;
	__be16 sport;
	__be16 dport;
	__u32 ifindex;
	__u32 bytes; /* whole frame, as it arrived */
	__u8 reason;
	__u8 tc; /* which program: TC or XDP */
	__u8 tcp_flags;
	__u8 icmp_type;
};
_Static_assert(sizeof(struct trace_event) == 96, "trace_event has no hole");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 256 * 1024);
} fl_traces SEC(".maps");

/* What service_find kept in scratch nobody needs any longer. */
static __always_inline bool trace_watched(struct scratch *s, const struct addr *a, __be16 port)
{
	struct service_key *end = &s->service_key;

	*end = (struct service_key){ .port = port, .proto = s->pkt_key.proto };
	end->vip = *a;
	if (bpf_map_lookup_elem(&fl_trace_ends, end))
		return true;
	end->port = 0;
	end->proto = 0;
	return bpf_map_lookup_elem(&fl_trace_ends, end);
}

static __always_inline bool trace_matches(struct scratch *s)
{
	const struct trace_filter *f = &fl_trace_filter;
	const struct flow_key *k = &s->pkt_key;

	if (f->match & TRACE_CLIENT && addr_differs(&k->src, &f->client) && addr_differs(&k->dst, &f->client))
		return false;
	return !(f->match & TRACE_ENDS) || trace_watched(s, &k->dst, k->dport) || trace_watched(s, &k->src, k->sport);
}

/* Reasons that are found before a packet's headers are known to be whole. */
static __always_inline bool trace_early(enum reason r)
{
	return r == REASON_NOT_IP || r == REASON_MALFORMED || r == REASON_BAD_PACKET;
}

/* Reasons of slow(), which may have made another packet of this one; scratch still has what it was. */
static __always_inline bool trace_answer(enum reason r)
{
	return r == REASON_ECHO_ANSWERED || r == REASON_PORT_REFUSED || r == REASON_NO_BACKEND || r == REASON_TTL_EXCEEDED ||
	       r == REASON_UNANSWERABLE || r == REASON_TOO_BIG;
}

static __always_inline bool trace_translated(enum reason r)
{
	return r == REASON_FORWARDED || r == REASON_REPLIED || r == REASON_ICMP_FORWARDED;
}

/*
 * Reads from the packet as it is now: what it became, and its TCP flags. Tags
 * may have been taken off, and no pointer or offset of the parser holds after
 * that, but the length of the IP header.
 */
static __noinline void trace_read(struct trace_event *e, const struct scratch *s, void *data, void *end)
{
	struct ethhdr *eth = data;
	void *l3 = eth + 1, *l4;
	__u32 tags = 0;
	__be16 proto;

	if (l3 > end)
		return;
	proto = eth->h_proto;
	for (int i = 0; i < 2; i++) {
		if (proto != bpf_htons(ETH_P_8021Q) && proto != bpf_htons(ETH_P_8021AD))
			break;
		if (l3 + 4 > end)
			return;
		proto = *(__be16 *)(l3 + 2);
		l3 += 4;
		tags++;
	}
	e->bytes += ((s->vlans & 3) - tags) * 4;
	if (trace_translated(e->reason) && proto == bpf_htons(ETH_P_IP)) {
		struct iphdr *iph = l3;

		if ((void *)(iph + 1) > end)
			return;
		addr_map4(&e->src, iph->saddr);
		addr_map4(&e->dst, iph->daddr);
	} else if (trace_translated(e->reason)) {
		struct ipv6hdr *ip6 = l3;

		if ((void *)(ip6 + 1) > end)
			return;
		__builtin_memcpy(&e->src, &ip6->saddr, sizeof(e->src));
		__builtin_memcpy(&e->dst, &ip6->daddr, sizeof(e->dst));
	}
	l4 = l3 + ((s->l4 - s->l3) & L4_MASK);
	if (!(e->key.sport | e->key.dport))
		return;
	if (e->key.proto == IPPROTO_TCP && l4 + sizeof(struct tcphdr) <= end)
		e->tcp_flags = ((__u8 *)l4)[13];
	if (trace_translated(e->reason) && l4 + 4 <= end) {
		e->sport = ((__be16 *)l4)[0];
		e->dport = ((__be16 *)l4)[1];
	}
}

/* An event about the packet at hand, in the ring buffer; NULL: nobody wants it, or no room. */
static __always_inline struct trace_event *trace_begin(struct scratch *s, __u32 r)
{
	struct trace_event *e;
	__u64 now = bpf_ktime_get_ns();

	if (now > fl_trace_until) {
		/* The agent was killed, or stands still: it turns this on again. */
		fl_trace_on = 0;
		return NULL;
	}
	if (!trace_matches(s))
		return NULL;
	e = bpf_ringbuf_reserve(&fl_traces, sizeof(*e), 0);
	if (!e) {
		__sync_fetch_and_add(&fl_trace_lost, 1);
		return NULL;
	}
	__builtin_memset(e, 0, sizeof(*e));
	e->time = now;
	e->key = s->pkt_key;
	e->reason = r;
	return e;
}

static __always_inline void trace_end(struct scratch *s, struct trace_event *e, void *data, void *end)
{
	if (trace_answer(e->reason)) {
		e->bytes = s->slow.bytes;
		e->tcp_flags = s->slow.tcp_flags;
	} else if (!trace_early(e->reason)) {
		trace_read(e, s, data, end);
	}
	if (!trace_early(e->reason))
		e->icmp_type = s->icmp_type;
	bpf_ringbuf_submit(e, 0);
}

__noinline int trace_xdp(struct xdp_md *ctx, __u32 r)
{
	struct scratch *s = scratch();
	struct trace_event *e = s ? trace_begin(s, r) : NULL;

	if (!e)
		return 0;
	e->ifindex = ctx->ingress_ifindex;
	e->bytes = ctx->data_end - ctx->data;
	trace_end(s, e, (void *)(long)ctx->data, (void *)(long)ctx->data_end);
	return 0;
}

__noinline int trace_tc(struct __sk_buff *ctx, __u32 r)
{
	struct scratch *s = scratch();
	struct trace_event *e = s ? trace_begin(s, r) : NULL;

	if (!e)
		return 0;
	e->ifindex = ctx->ifindex;
	e->bytes = ctx->len;
	e->tc = true;
	trace_end(s, e, (void *)(long)ctx->data, (void *)(long)ctx->data_end);
	return 0;
}

/* Tells of the packet at hand, which leaves; its key is that in scratch. */
static __always_inline void trace(const struct pkt *p, enum reason r)
{
	if (__builtin_expect(!(fl_trace_on & 1ULL << r), 1))
		return;
	if (p->tc)
		trace_tc(p->ctx, r);
	else
		trace_xdp(p->ctx, r);
}

#endif
