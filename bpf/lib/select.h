/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef FL_SELECT_H
#define FL_SELECT_H

#include "client.h"
#include "table.h"

/* Other slots tried, then other source ports, before a new flow is refused. */
#define SELECT_SLOTS 4
#define SELECT_PORTS 8

static __always_inline struct service *service_find(const struct addr *vip, __be16 port, __u8 proto)
{
	struct scratch *s = scratch();

	if (!s)
		return NULL;
	s->service_key.vip = *vip;
	s->service_key.port = port;
	s->service_key.proto = proto;
	return bpf_map_lookup_elem(&fl_services, &s->service_key);
}

static __always_inline bool is_vip(const struct addr *a)
{
	return service_find(a, 0, 0);
}

/* The backend of a known flow, if it is still the one the flow was made for. */
static __always_inline struct backend *backend_of(const struct addr *addr, __be16 port, __u32 id)
{
	struct backend *b = bpf_map_lookup_elem(&fl_backends, &id);

	if (!b || !(b->flags & BE_USED) || b->port != port || !addr_equal(&b->addr, addr))
		return NULL;
	return b;
}

static __always_inline __be16 random_port(void)
{
	return bpf_htons(1024 + bpf_get_prandom_u32() % (65536 - 1024));
}

/* Slots that are compared where the backend with the fewest flows is wanted: with few backends all of them, and of many two
 * would do (Mitzenmacher, "The Power of Two Choices", 2001). */
#define LEAST_OF 16

/*
 * Of some slots' backends the one with the fewest flows for its weight: to
 * scratch, as owner. id is that of the hash's own slot, the service is in scratch.
 */
__noinline int least_of(__u32 hash, __u32 id)
{
	struct scratch *s = scratch();
	struct backend *b, *o;
	__u64 least, load;
	struct load *l;
	__u32 other = 0;

	if (!s)
		return 0;
	s->owner = id;
	b = bpf_map_lookup_elem(&fl_backends, &id);
	l = bpf_map_lookup_elem(&fl_load, &id);
	if (!b || !l)
		return 0;
	least = l->flows;
	for (int i = 1; i < LEAST_OF; i++) {
		hash = hash_mix(hash, 0x51ed + i);
		o = backend_at(&s->service, hash, &other);
		l = bpf_map_lookup_elem(&fl_load, &other);
		if (!o || !l)
			continue;
		load = l->flows;
		if (load * b->weight < least * o->weight) {
			b = o;
			s->owner = other;
			least = load;
		}
	}
	return 0;
}

static __always_inline void load_add(__u32 id)
{
	struct load *l = bpf_map_lookup_elem(&fl_load, &id);

	if (l)
		__sync_fetch_and_add(&l->flows, 1);
}

/* The flow in scratch, not counted yet, will not be: its port is free again. */
static __always_inline void flow_unclaim(struct scratch *s)
{
	if (s->service.flags & SVC_NAT)
		source_give(s->source, 0, FLOW_NAT, s->key.proto, addr_is4(&s->key.src));
}

/*
 * Chooses a backend for a new flow and records both directions: key and service
 * come, and the client's direction goes, by scratch. The client's address and
 * port are kept unless the backend is the client itself (hairpin: the VIP
 * becomes the source) or every tuple tried is taken (the port changes); with
 * SVC_NAT both become those of a source. With
 * single only the reply's direction is recorded, and nothing may be changed.
 * Returns REASON_FORWARDED or why not.
 */
__noinline enum reason flow_choose(__u32 ifindex, __u32 single)
{
	struct scratch *s = scratch();
	struct backend *b, *held;
	__u32 hash, hash_first, id = 0;
	__u8 *pending;

	if (!s)
		return REASON_TABLE_FULL;
	hash = hash_first = hash_flow(&s->key, hash_seed);
	s->reply = (struct flow){ .hash = hash,
				  .src = s->key.dst,
				  .dst = s->key.src,
				  .sport = s->key.dport,
				  .dport = s->key.sport,
				  .flags = FLOW_REPLY | (s->service.flags & SVC_NAT ? FLOW_NAT : 0) |
					   (s->service.flags & SVC_LEAST ? FLOW_LEAST : 0),
				  .service = s->service.id,
				  .ifindex = ifindex,
				  .seen = bpf_jiffies64() };
	s->twin = (struct flow_key){ .proto = s->key.proto };
	held = s->service.affinity ? client_backend(s, &id) : NULL;
	for (int i = 0; i < SELECT_SLOTS + SELECT_PORTS; i++) {
		b = held ?: backend_at(&s->service, hash, &id);
		if (b && s->service.flags & SVC_LEAST && !held) {
			least_of(hash, id);
			id = s->owner;
			b = bpf_map_lookup_elem(&fl_backends, &id);
		}
		if (!b)
			return REASON_NO_BACKEND;
		s->reply.backend = id;
		s->twin.src = b->addr;
		s->twin.sport = b->port;
		s->twin.dst = addr_equal(&b->addr, &s->key.src) ? s->key.dst : s->key.src;
		s->twin.dport = i < SELECT_SLOTS ? s->key.sport : random_port();
		if (s->service.flags & SVC_NAT) {
			if (source_take())
				return REASON_NO_SOURCE_PORT;
			s->reply.source = s->source >> 16;
		}
		if (single)
			s->reply.flags |= FLOW_SINGLE;
		if (flow_claim(s, single, single && s->vacant))
			goto claimed;
		flow_unclaim(s);
		if (single)
			return REASON_COLLISION; /* the table would send the next packet to this backend all the same */
		hash = hash_mix(hash, i + 1);
	}
	return REASON_COLLISION;
claimed:
	pending = single ? flow_pending(hash_first) : NULL;
	if (pending)
		*pending = pending_now();
	s->flow = s->reply;
	s->flow.flags &= FLOW_HOLDS;
	s->flow.src = s->twin.dst;
	s->flow.dst = s->twin.src;
	s->flow.sport = s->twin.dport;
	s->flow.dport = s->twin.sport;
	if (!s->in_line && bpf_map_update_elem(&fl_embryos, &s->key, &s->flow, BPF_ANY)) {
		bpf_map_delete_elem(&fl_embryos, &s->twin);
		flow_unclaim(s);
		return REASON_TABLE_FULL;
	}
	if (s->flow.flags & FLOW_LEAST)
		load_add(id);
	if (s->service.affinity)
		client_remember(s, id);
	return REASON_FORWARDED;
}

/* Makes a flow for the first packet from a client to a service. */
static __always_inline enum reason flow_open(const struct pkt *p, const struct service *svc, bool single, struct flow **opened)
{
	bool reopened = p->key->proto == IPPROTO_TCP && (p->tcp_flags & (TCP_SYN | TCP_ACK)) != TCP_SYN;
	struct scratch *s = scratch();
	enum reason why;

	if (!s)
		return REASON_TABLE_FULL;
	s->key = *p->key;
	s->service = *svc;
	*opened = &s->flow;
	why = client_admit();
	if (why == REASON_FORWARDED)
		why = flow_choose(p->ifindex, single);
	if (why == REASON_FORWARDED)
		count_connection(svc->id, reopened);
	return why;
}

#endif
