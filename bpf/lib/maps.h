/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef FL_MAPS_H
#define FL_MAPS_H

#include <bpf/bpf_helpers.h>

#include "lines.h"

/*
 * Sizes are set by the agent before loading. Maps only the agent writes are
 * read-only for programs; where the agent writes through a memory mapping the
 * kernel does not allow both.
 */

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct service_key);
	__type(value, struct service);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC | BPF_F_RDONLY_PROG);
} fl_services SEC(".maps");

/* Some of the services once more (front.h). */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct front_line);
	__uint(max_entries, 1 << 16); /* a power of two */
	__uint(map_flags, BPF_F_MMAPABLE);
} fl_fronts SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct slot_line);
	__uint(max_entries, 1 << 16);
	__uint(map_flags, BPF_F_MMAPABLE);
} fl_slots SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct backend);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_MMAPABLE);
} fl_backends SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, struct flow_key);
	__type(value, struct flow);
	__uint(max_entries, 1 << 20);
} fl_flows SEC(".maps");

/*
 * Flows nobody has confirmed yet: a flood of SYNs (or of lone datagrams) fills
 * these tables and cannot evict an established flow from the other. What a line
 * can tell (handshake.h) is in the lines, the rest in the hash.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct handshake_line);
	__uint(max_entries, 1 << 15); /* a power of two */
} fl_handshakes SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, struct flow_key);
	__type(value, struct flow);
	__uint(max_entries, 1 << 17);
} fl_embryos SEC(".maps");

/* When, in jiffies, something last was in fl_embryos. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_MMAPABLE);
} fl_embryos_used SEC(".maps");

/* Flows of the last seconds (recent.h), and the epoch whose entries count. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct recent_line);
	__uint(max_entries, 1 << 18); /* a power of two */
} fl_recent SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_MMAPABLE);
} fl_epoch SEC(".maps");

/* Until when, in jiffies, connections may have lost the entry of their replies (direct_mend). */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_MMAPABLE);
} fl_mend SEC(".maps");

/* By the id of a service, twice, plus one for IPv6. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct vip);
	__uint(max_entries, 2 * 65536);
	__uint(map_flags, BPF_F_MMAPABLE);
} fl_vips SEC(".maps");

/*
 * Mode full-nat: the addresses that backends see, and their free ports, taken
 * from the front and put back at the end, so that a port rests as long as it
 * can. A port is (index into fl_sources) << 16 | port, in the host's order. Its
 * owner is its flow, which gives it back when it is over; the agent does for
 * flows that it deletes, and finds those that got lost.
 */
#define SOURCES 256
/* Room for the ports of eight sources, which are as many as fl_flows has flows with two entries. */
#define PORTS (1 << 19)
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct addr);
	__uint(max_entries, SOURCES);
	__uint(map_flags, BPF_F_RDONLY_PROG);
} fl_sources SEC(".maps");

struct ports {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__type(value, __u32);
	__uint(max_entries, PORTS);
};
struct ports fl_ports_tcp4 SEC(".maps");
struct ports fl_ports_udp4 SEC(".maps");
struct ports fl_ports_tcp6 SEC(".maps");
struct ports fl_ports_udp6 SEC(".maps");

/* Flows of each backend, of services with SVC_LEAST; the agent sets it right. */
struct load {
	__u32 flows;
	__u32 pad;
};
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct load);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_MMAPABLE);
} fl_load SEC(".maps");

/*
 * One byte for every value of a flow's hash: about when a SYN of it was
 * forwarded, 0 once its handshake is over. Only while it is fresh does a packet
 * of a service without SVC_FLOWS look for an embryo.
 */
#define PENDING (1 << 18)
struct pending_line {
	__u8 syn[64];
};
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct pending_line);
	__uint(max_entries, PENDING / 64);
} fl_pending SEC(".maps");

/*
 * A Bloom filter with one hash over every address that a service or a backend
 * has: what is in it may be ours, what is not needs no other lookup.
 */
#define FILTER_BITS (1 << 21)
struct filter_line {
	__u64 bits[8];
};
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct filter_line);
	__uint(max_entries, FILTER_BITS / 512);
	__uint(map_flags, BPF_F_MMAPABLE);
} fl_filter SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__type(key, struct allow_key);
	__type(value, __u32);
	__uint(max_entries, 1 << 16);
	__uint(map_flags, BPF_F_NO_PREALLOC | BPF_F_RDONLY_PROG);
} fl_allow SEC(".maps");

#define CLIENT_LINES (1 << 15)
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct client_line);
	__uint(max_entries, CLIENT_LINES);
} fl_client_lines SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, struct frag_key);
	__type(value, struct frag);
	__uint(max_entries, 1 << 14);
} fl_frags SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct iface);
	__uint(max_entries, IFACE_MASK + 1);
	__uint(map_flags, BPF_F_RDONLY_PROG);
} fl_ifaces SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, STAT_SLOTS *STAT_REASONS);
} fl_stats SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct svc_stats);
	__uint(max_entries, 65536);
} fl_svc_stats SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct scratch);
	__uint(max_entries, 1);
} fl_scratch SEC(".maps");

static __always_inline struct scratch *scratch(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&fl_scratch, &zero);
}

#endif
