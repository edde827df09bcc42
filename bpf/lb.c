// SPDX-License-Identifier: GPL-2.0-only
/*
 * Entry points of the packet programs. One object, so that both share maps:
 * XDP where frames arrive from a wire, TC at the ingress of a NIC and of the
 * host side of a workload's veth.
 */
#include "lib/quick.h"

/* Enough for Ethernet, the longest IPv4 header or some extension headers, and TCP. */
#define LINEAR 160

/* These are global functions, so that the verifier checks each of them once. */

__noinline int xdp_quick(struct xdp_md *ctx)
{
	struct pkt p = { .ctx = ctx, .tc = false, .ifindex = ctx->ingress_ifindex };

	pkt_reload(&p);
	p.bytes = p.end - p.data;
	return quick(&p);
}

__noinline int xdp_process(struct xdp_md *ctx)
{
	struct pkt p = { .ctx = ctx, .tc = false, .ifindex = ctx->ingress_ifindex };

	pkt_reload(&p);
	p.bytes = p.end - p.data; /* of the first buffer; see cut_short */
	return process(&p);
}

__noinline int xdp_icmp(struct xdp_md *ctx)
{
	return slow(ctx, false, SLOW_ICMP);
}

__noinline int xdp_refuse(struct xdp_md *ctx)
{
	return slow(ctx, false, SLOW_REFUSE);
}

__noinline int xdp_ttl(struct xdp_md *ctx)
{
	return slow(ctx, false, SLOW_TTL);
}

__noinline int xdp_too_big(struct xdp_md *ctx)
{
	return slow(ctx, false, SLOW_TOO_BIG);
}

SEC("xdp")
int fl_xdp(struct xdp_md *ctx)
{
	int act = xdp_quick(ctx);

	if (act != QUICK_NOT)
		return act;
	act = xdp_process(ctx);

	switch (act) {
	case SLOW_ICMP:
		return xdp_icmp(ctx);
	case SLOW_REFUSE:
		return xdp_refuse(ctx);
	case SLOW_TTL:
		return xdp_ttl(ctx);
	case SLOW_TOO_BIG:
		return xdp_too_big(ctx);
	}
	return act;
}

__noinline int tc_quick(struct __sk_buff *ctx)
{
	struct pkt p = { .ctx = ctx, .tc = true, .ifindex = ctx->ifindex, .bytes = ctx->len };

	if (ctx->vlan_present)
		return QUICK_NOT;
	pkt_reload(&p);
	return quick(&p);
}

__noinline int tc_process(struct __sk_buff *ctx)
{
	struct pkt p = { .ctx = ctx, .tc = true, .ifindex = ctx->ifindex, .bytes = ctx->len };

	if ((void *)(long)ctx->data + LINEAR > (void *)(long)ctx->data_end)
		bpf_skb_pull_data(ctx, ctx->len < LINEAR ? ctx->len : LINEAR);
	pkt_reload(&p);
	return process(&p);
}

__noinline int tc_icmp(struct __sk_buff *ctx)
{
	return slow(ctx, true, SLOW_ICMP);
}

__noinline int tc_refuse(struct __sk_buff *ctx)
{
	return slow(ctx, true, SLOW_REFUSE);
}

__noinline int tc_ttl(struct __sk_buff *ctx)
{
	return slow(ctx, true, SLOW_TTL);
}

__noinline int tc_too_big(struct __sk_buff *ctx)
{
	return slow(ctx, true, SLOW_TOO_BIG);
}

__noinline int tc_split(struct __sk_buff *ctx)
{
	return slow(ctx, true, SLOW_SPLIT);
}

SEC("tc")
int fl_tc(struct __sk_buff *ctx)
{
	int act = tc_quick(ctx);

	if (act != QUICK_NOT)
		return act;
	act = tc_process(ctx);

	switch (act) {
	case SLOW_ICMP:
		return tc_icmp(ctx);
	case SLOW_REFUSE:
		return tc_refuse(ctx);
	case SLOW_TTL:
		return tc_ttl(ctx);
	case SLOW_SPLIT:
		act = tc_split(ctx);
		return act != SPLIT_NOT ? act : tc_too_big(ctx);
	case SLOW_TOO_BIG:
		return tc_too_big(ctx);
	}
	return act;
}

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct clock);
	__uint(max_entries, 1);
} fl_clock SEC(".maps");

/* Attached nowhere: the agent runs it to read the kernel's jiffies. */
SEC("xdp")
int fl_read_clock(struct xdp_md *ctx __attribute__((unused)))
{
	__u32 zero = 0;
	struct clock *c = bpf_map_lookup_elem(&fl_clock, &zero);

	if (c) {
		c->jiffies = bpf_jiffies64();
		c->ktime = bpf_ktime_get_ns();
	}
	return XDP_ABORTED;
}

char _license[] SEC("license") = "GPL";
