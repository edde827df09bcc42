// SPDX-License-Identifier: GPL-2.0-only
/*
 * Connect-time balancing for clients on the host itself: the socket is given a
 * backend when it connects (or sends), and no packet is ever translated.
 * Sockets of other network namespaces are left alone: their packets pass the
 * programs of lb.c.
 */
#include <linux/in.h>

#include "lib/addr.h"
#include "lib/maps.h"
#include "lib/table.h"

/* Not in the kernel's uapi headers. */
#define ECONNREFUSED 111

/* The agent's network namespace; 0: that of the machine (kernels whose getsockopt cannot tell). */
volatile const __u64 netns_cookie;
/* Does the kernel have bpf_set_retval (5.18)? Without it a refusal is EPERM. */
volatile const bool has_set_retval;

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, struct sock_key);
	__type(value, struct sock_vip);
	__uint(max_entries, 1 << 16);
} fl_socks SEC(".maps");

enum { DENY = 0, ALLOW = 1 };

static __always_inline bool is_own_netns(struct bpf_sock_addr *ctx)
{
	__u64 own = netns_cookie ? netns_cookie : bpf_get_netns_cookie(NULL);

	return bpf_get_netns_cookie(ctx) == own;
}

static __always_inline void dest_read(const struct bpf_sock_addr *ctx, bool v6, struct addr *a)
{
	if (!v6) {
		addr_map4(a, ctx->user_ip4);
		return;
	}
	a->w[0] = ctx->user_ip6[0];
	a->w[1] = ctx->user_ip6[1];
	a->w[2] = ctx->user_ip6[2];
	a->w[3] = ctx->user_ip6[3];
}

static __always_inline void dest_write(struct bpf_sock_addr *ctx, bool v6, const struct addr *a, __be16 port)
{
	ctx->user_port = port;
	if (!v6) {
		ctx->user_ip4 = a->w[3];
		return;
	}
	ctx->user_ip6[0] = a->w[0];
	ctx->user_ip6[1] = a->w[1];
	ctx->user_ip6[2] = a->w[2];
	ctx->user_ip6[3] = a->w[3];
}

static __always_inline int refuse(void)
{
	if (has_set_retval)
		bpf_set_retval(-ECONNREFUSED);
	return DENY;
}

static __always_inline void sock_key_fill(struct sock_key *k, struct bpf_sock_addr *ctx, const struct addr *a, __be16 port)
{
	k->cookie = bpf_get_socket_cookie(ctx);
	k->backend = *a;
	k->port = port;
	k->proto = ctx->protocol;
}

/*
 * TCP: any place of the table, for every connection anew. UDP: the same place
 * for the same socket and VIP, so that unconnected datagrams stay together.
 * With affinity all of this host is one client.
 */
static __always_inline __u32 place_of(struct bpf_sock_addr *ctx, const struct service_key *key, bool affinity)
{
	if (affinity)
		return hash_mix(key->vip.w[3], key->port) >> 16;
	if (ctx->protocol == IPPROTO_TCP)
		return bpf_get_prandom_u32();
	return hash_mix(bpf_get_socket_cookie(ctx), ((__u64)key->vip.w[3] << 16) | key->port) >> 16;
}

static __always_inline int translate(struct bpf_sock_addr *ctx, bool v6)
{
	struct service_key key = { .port = ctx->user_port, .proto = ctx->protocol };
	struct service_key vip = {};
	struct sock_key sk = {};
	struct sock_vip meant = {};
	struct service *svc;
	struct svc_stats *st;
	struct backend *b;
	__u32 id;

	if (!is_own_netns(ctx))
		return ALLOW;
	dest_read(ctx, v6, &key.vip);
	svc = bpf_map_lookup_elem(&fl_services, &key);
	if (!svc) {
		vip.vip = key.vip;
		return bpf_map_lookup_elem(&fl_services, &vip) ? refuse() : ALLOW;
	}
	if (svc->flags & SVC_SLEEP)
		return ALLOW; /* the VIP is this host's: the connection is held there (listen.c) */
	b = backend_at(svc, place_of(ctx, &key, svc->affinity), &id);
	if (!b)
		return refuse();
	sock_key_fill(&sk, ctx, &b->addr, b->port);
	meant.vip = key.vip;
	meant.port = key.port;
	if (bpf_map_update_elem(&fl_socks, &sk, &meant, BPF_ANY))
		return refuse();
	st = bpf_map_lookup_elem(&fl_svc_stats, &svc->id);
	if (st && ctx->protocol == IPPROTO_TCP)
		st->connections++;
	dest_write(ctx, v6, &b->addr, b->port);
	return ALLOW;
}

/* Shows the program the VIP it meant in place of the backend it talks to. */
static __always_inline int restore(struct bpf_sock_addr *ctx, bool v6)
{
	struct sock_key sk = {};
	struct sock_vip *meant;
	struct addr a = {};

	if (!is_own_netns(ctx))
		return ALLOW;
	dest_read(ctx, v6, &a);
	sock_key_fill(&sk, ctx, &a, ctx->user_port);
	meant = bpf_map_lookup_elem(&fl_socks, &sk);
	if (meant)
		dest_write(ctx, v6, &meant->vip, meant->port);
	return ALLOW;
}

SEC("cgroup/connect4")
int fl_connect4(struct bpf_sock_addr *ctx)
{
	return translate(ctx, false);
}

SEC("cgroup/connect6")
int fl_connect6(struct bpf_sock_addr *ctx)
{
	return translate(ctx, true);
}

SEC("cgroup/sendmsg4")
int fl_sendmsg4(struct bpf_sock_addr *ctx)
{
	return translate(ctx, false);
}

SEC("cgroup/sendmsg6")
int fl_sendmsg6(struct bpf_sock_addr *ctx)
{
	return translate(ctx, true);
}

SEC("cgroup/recvmsg4")
int fl_recvmsg4(struct bpf_sock_addr *ctx)
{
	return restore(ctx, false);
}

SEC("cgroup/recvmsg6")
int fl_recvmsg6(struct bpf_sock_addr *ctx)
{
	return restore(ctx, true);
}

SEC("cgroup/getpeername4")
int fl_getpeername4(struct bpf_sock_addr *ctx)
{
	return restore(ctx, false);
}

SEC("cgroup/getpeername6")
int fl_getpeername6(struct bpf_sock_addr *ctx)
{
	return restore(ctx, true);
}

char _license[] SEC("license") = "GPL";
