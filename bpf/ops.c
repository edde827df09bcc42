// SPDX-License-Identifier: GPL-2.0-only
/*
 * Tells the agent which socket of a workload takes connections or datagrams
 * from now on: attached to the cgroup above all workloads, so that not even a
 * program's first listen() or bind() is missed.
 */
#include <linux/bpf.h>
#include <linux/in.h>
#include <bpf/bpf_helpers.h>

#include "lib/addr.h"

/* Does the kernel tell the namespace of a listening socket (5.15)? Else it is 0. */
volatile const bool has_netns_cookie;

struct listen_event {
	__u64 netns; /* cookie of the socket's network namespace */
	struct addr addr;
	__u16 port; /* host order */
	__u8 proto;
	__u8 pad[5];
};
_Static_assert(sizeof(struct listen_event) == 32, "struct listen_event is shared with Go");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 18);
} fl_listens SEC(".maps");

/* What a full buffer loses is found by the agent's next look at the replica. */
static __always_inline void tell(const struct listen_event *e)
{
	bpf_ringbuf_output(&fl_listens, (void *)e, sizeof(*e), 0);
}

SEC("sockops")
int fl_ops(struct bpf_sock_ops *ctx)
{
	struct listen_event e = { .proto = IPPROTO_TCP, .port = ctx->local_port };

	if (ctx->op != BPF_SOCK_OPS_TCP_LISTEN_CB)
		return 1;
	if (has_netns_cookie)
		e.netns = bpf_get_netns_cookie(ctx);
	if (ctx->family == 2) { /* AF_INET */
		addr_map4(&e.addr, ctx->local_ip4);
	} else {
		e.addr.w[0] = ctx->local_ip6[0];
		e.addr.w[1] = ctx->local_ip6[1];
		e.addr.w[2] = ctx->local_ip6[2];
		e.addr.w[3] = ctx->local_ip6[3];
	}
	tell(&e);
	return 1;
}

/* A UDP socket takes datagrams as soon as it is bound; one of TCP does not yet. */
SEC("cgroup/post_bind4")
int fl_bind4(struct bpf_sock *sk)
{
	struct listen_event e = { .proto = IPPROTO_UDP, .port = sk->src_port };

	if (sk->protocol != IPPROTO_UDP)
		return 1;
	e.netns = bpf_get_netns_cookie(sk);
	addr_map4(&e.addr, sk->src_ip4);
	tell(&e);
	return 1;
}

SEC("cgroup/post_bind6")
int fl_bind6(struct bpf_sock *sk)
{
	struct listen_event e = { .proto = IPPROTO_UDP, .port = sk->src_port };

	if (sk->protocol != IPPROTO_UDP)
		return 1;
	e.netns = bpf_get_netns_cookie(sk);
	e.addr.w[0] = sk->src_ip6[0];
	e.addr.w[1] = sk->src_ip6[1];
	e.addr.w[2] = sk->src_ip6[2];
	e.addr.w[3] = sk->src_ip6[3];
	tell(&e);
	return 1;
}

char _license[] SEC("license") = "GPL";
