// SPDX-License-Identifier: GPL-2.0-only
/*
 * Leads connections and datagrams to services that may sleep, on whatever
 * address and port, to the agent's sockets. Only those that the programs of lb.c
 * and sock.c left to the kernel come here.
 */
#include <linux/in.h>
#include <bpf/bpf_endian.h>

#include "lib/addr.h"
#include "lib/maps.h"

/* TCP of IPv4 and of IPv6, UDP of IPv4 and of IPv6. They are gone with the agent that opened them. */
enum { LISTENER_V6 = 1, LISTENER_UDP = 2, LISTENERS = 4 };

struct {
	__uint(type, BPF_MAP_TYPE_SOCKMAP);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, LISTENERS);
} fl_listeners SEC(".maps");

SEC("sk_lookup")
int fl_listen(struct bpf_sk_lookup *ctx)
{
	struct service_key key = { .port = bpf_htons(ctx->local_port), .proto = ctx->protocol };
	bool v4 = ctx->family == 2; /* AF_INET */
	__u32 listener = v4 ? 0 : LISTENER_V6;
	struct service *svc;
	struct bpf_sock *sk;

	if (ctx->protocol == IPPROTO_UDP)
		listener |= LISTENER_UDP;
	else if (ctx->protocol != IPPROTO_TCP)
		return SK_PASS;
	/* Reading both is allowed, and keeps the compiler from making one pointer into the context of two. */
	key.vip.w[0] = ctx->local_ip6[0];
	key.vip.w[1] = ctx->local_ip6[1];
	key.vip.w[2] = ctx->local_ip6[2];
	key.vip.w[3] = ctx->local_ip6[3];
	if (v4)
		addr_map4(&key.vip, ctx->local_ip4);
	svc = bpf_map_lookup_elem(&fl_services, &key);
	if (!svc || !(svc->flags & SVC_WAKES))
		return SK_PASS;
	sk = bpf_map_lookup_elem(&fl_listeners, &listener);
	if (!sk)
		return SK_PASS;
	bpf_sk_assign(ctx, sk, 0);
	bpf_sk_release(sk);
	return SK_PASS;
}

char _license[] SEC("license") = "GPL";
