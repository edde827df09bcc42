// SPDX-License-Identifier: GPL-2.0-only
/*
 * Entry points of the packet programs. One object, so that both share maps:
 * XDP where frames arrive from a wire, TC at the ingress of a NIC and of the
 * host side of a workload's veth.
 */
#include "lib/balance.h"

/* Enough for Ethernet, the longest IPv4 header or some extension headers, and TCP. */
#define LINEAR 160

SEC("xdp")
int fl_xdp(struct xdp_md *ctx)
{
	struct flow_key key = {};
	struct pkt p = { .ctx = ctx, .key = &key, .tc = false, .ifindex = ctx->ingress_ifindex };

	pkt_reload(&p);
	p.bytes = p.end - p.data;
	return process(&p);
}

SEC("tc")
int fl_tc(struct __sk_buff *ctx)
{
	struct flow_key key = {};
	struct pkt p = { .ctx = ctx, .key = &key, .tc = true, .ifindex = ctx->ifindex, .bytes = ctx->len };

	if ((void *)(long)ctx->data + LINEAR > (void *)(long)ctx->data_end)
		bpf_skb_pull_data(ctx, ctx->len < LINEAR ? ctx->len : LINEAR);
	pkt_reload(&p);
	return process(&p);
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
