// SPDX-License-Identifier: GPL-2.0-only
/*
 * Tells the agent that a workload listens: attached to the cgroup above all of
 * them, so that not even a program's first listen() is missed.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 16);
} fl_listens SEC(".maps");

SEC("sockops")
int fl_ops(struct bpf_sock_ops *ctx)
{
	__u32 port = ctx->local_port; /* host order */

	/* A full buffer loses an event and tells of one all the same. */
	if (ctx->op == BPF_SOCK_OPS_TCP_LISTEN_CB)
		bpf_ringbuf_output(&fl_listens, &port, sizeof(port), 0);
	return 1;
}

char _license[] SEC("license") = "GPL";
