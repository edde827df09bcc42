// SPDX-License-Identifier: GPL-2.0-only
/*
 * The harness of bench/packet and what fairlead is measured beside.
 *
 * BPF_PROG_TEST_RUN with repeat gives every run the packet that the last one
 * left: translated, with another TTL, sometimes of another length. So what is
 * run is a program of this file: it restores the frame, writes the next tuple
 * into it and tail-calls the program under test, which is the very one that
 * the agent attaches.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define FRAME 78 /* bytes of every frame */
#define FRAMES 8 /* sent one after the other for each tuple */

/* Where the tuple goes. */
enum kind {
	KIND_REQUEST4, /* client address and port, VIP */
	KIND_REQUEST6, /* last words of the addresses, client port */
	KIND_REPLY4,   /* the client is the destination */
	KIND_ECHO4,    /* client address and ICMP identifier, VIP */
};

/*
 * A frame in the pieces in which it is stored. What a program reads lies within
 * one store: a load that needs two has to wait until they have left the store
 * buffer, which no packet from a wire would cost it. Fields of the tuple are 0.
 */
struct frame {
	__u64 l3[8];
	__u64 mac;
	__u32 mac_end;
	__be16 type;
	__u16 kind; /* enum kind */
};

/* What the next run sends; written by Go between runs. */
struct plan {
	__u64 mask;	/* tuples - 1; tuples are a power of two */
	__u32 services; /* VIPs dst, dst+1 … */
	__u32 dst;	/* first VIP, or its last word, host order */
	__u32 src;	/* first client address, or its last word, host order */
	__u32 frames;	/* 1 … FRAMES */
	struct frame frame[FRAMES];
};

volatile struct plan bench_now;

struct cursor {
	__u64 at;
	__u64 step;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct cursor);
	__uint(max_entries, 1);
} bench_cursor SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(key_size, 4);
	__uint(value_size, 4);
	__uint(max_entries, 1);
} bench_next_xdp SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(key_size, 4);
	__uint(value_size, 4);
	__uint(max_entries, 1);
} bench_next_tc SEC(".maps");

/*
 * The next number of the sequence, and which frame of its turn it is. A linear
 * congruential generator (Knuth's MMIX) modulo a power of two visits every
 * number once per period, in an order no prefetcher follows.
 */
static __always_inline __u64 next(__u64 *frame)
{
	__u32 zero = 0;
	struct cursor *c = bpf_map_lookup_elem(&bench_cursor, &zero);

	if (!c)
		return 0;
	*frame = c->step & (FRAMES - 1);
	if (++c->step < bench_now.frames)
		return c->at & bench_now.mask;
	c->step = 0;
	__u64 now = c->at;

	c->at = now * 6364136223846793005ULL + 1442695040888963407ULL;
	return now & bench_now.mask;
}

static __always_inline void restore(void *to)
{
	__u64 k = 0, i = next(&k), in[8] = {};
	__u32 service = ((__u64)((__u32)i * 2654435761U) * bench_now.services) >> 32;
	__u32 src_h = bench_now.src + (__u32)(i >> 15), dst_h = bench_now.dst + service;
	__u64 client = bpf_htonl(src_h), dst = bpf_htonl(dst_h), port = bpf_htons(1024 + (i & 0x7fff));

	/* l3[n] starts at byte 14 + 8 n of the frame. */
	switch (bench_now.frame[k].kind) {
	case KIND_REQUEST4:
		in[1] = client << 32;
		in[2] = dst | port << 32;
		break;
	case KIND_REQUEST6:
		in[2] = client << 32;
		in[4] = dst << 32;
		in[5] = port;
		break;
	case KIND_REPLY4:
		in[2] = client | port << 48;
		break;
	case KIND_ECHO4:
		in[1] = client << 32;
		in[2] = dst;
		in[3] = port;
		break;
	}
	*(__u64 *)to = bench_now.frame[k].mac;
	*(__u32 *)(to + 8) = bench_now.frame[k].mac_end;
	*(__u16 *)(to + 12) = bench_now.frame[k].type;
#pragma unroll
	for (int w = 0; w < 8; w++)
		*(__u64 *)(to + ETH_HLEN + 8 * w) = bench_now.frame[k].l3[w] | in[w];
}

SEC("xdp")
int bench_xdp(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;

	if (end - data != FRAME) {
		if (bpf_xdp_adjust_tail(ctx, FRAME - (int)(end - data)))
			return XDP_ABORTED;
		data = (void *)(long)ctx->data;
		end = (void *)(long)ctx->data_end;
	}
	if (data + FRAME > end)
		return XDP_ABORTED;
	restore(data);
	bpf_tail_call(ctx, &bench_next_xdp, 0);
	return XDP_ABORTED;
}

SEC("tc")
int bench_tc(struct __sk_buff *ctx)
{
	void *data, *end;

	if (ctx->len != FRAME && bpf_skb_change_tail(ctx, FRAME, 0))
		return TC_ACT_SHOT;
	data = (void *)(long)ctx->data;
	end = (void *)(long)ctx->data_end;
	if (data + FRAME > end)
		return TC_ACT_SHOT;
	restore(data);
	bpf_tail_call(ctx, &bench_next_tc, 0);
	return TC_ACT_SHOT;
}

/* What a packet costs that nothing is done with. */
SEC("xdp")
int bare_xdp(struct xdp_md *ctx __attribute__((unused)))
{
	return XDP_TX;
}

SEC("tc")
int bare_tc(struct __sk_buff *ctx)
{
	return bpf_redirect(ctx->ifindex, 0);
}

/* What it costs the harness to bring an answer back to its length. */
SEC("xdp")
int trim_xdp(struct xdp_md *ctx)
{
	bpf_xdp_adjust_tail(ctx, -26);
	return XDP_TX;
}

SEC("tc")
int trim_tc(struct __sk_buff *ctx)
{
	bpf_skb_change_tail(ctx, FRAME - 26, 0);
	return bpf_redirect(ctx->ifindex, 0);
}

/* The least a stateful balancer does: five-tuple, one table. */
struct tuple {
	__be32 src;
	__be32 dst;
	__be32 ports;
	__u32 proto;
};

struct entry {
	__u64 packets;
	__u64 backend;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct tuple);
	__type(value, struct entry);
	__uint(max_entries, 1 << 20);
} bench_hash SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, struct tuple);
	__type(value, struct entry);
	__uint(max_entries, 1 << 20);
} bench_lru SEC(".maps");

/* Apart, so that new flows do not evict the known ones. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, struct tuple);
	__type(value, struct entry);
	__uint(max_entries, 1 << 17);
} bench_lru_new SEC(".maps");

static __always_inline int look_up(struct xdp_md *ctx, void *map)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = data;
	struct iphdr *iph = (void *)(eth + 1);
	struct tuple key = {};
	struct entry fresh = { .packets = 1, .backend = 1 }, *e;

	if ((void *)(iph + 1) + sizeof(__be32) > end || eth->h_proto != bpf_htons(ETH_P_IP) || iph->ihl != 5)
		return XDP_PASS;
	if (iph->protocol != IPPROTO_TCP && iph->protocol != IPPROTO_UDP)
		return XDP_PASS;
	key.src = iph->saddr;
	key.dst = iph->daddr;
	key.ports = *(__be32 *)(iph + 1);
	key.proto = iph->protocol;
	e = bpf_map_lookup_elem(map, &key);
	if (e) {
		e->packets++;
		return XDP_TX;
	}
	return bpf_map_update_elem(map, &key, &fresh, BPF_ANY) ? XDP_DROP : XDP_TX;
}

SEC("xdp")
int hash_xdp(struct xdp_md *ctx)
{
	return look_up(ctx, &bench_hash);
}

SEC("xdp")
int lru_xdp(struct xdp_md *ctx)
{
	return look_up(ctx, &bench_lru);
}

SEC("xdp")
int lru_new_xdp(struct xdp_md *ctx)
{
	return look_up(ctx, &bench_lru_new);
}

char _license[] SEC("license") = "GPL";
