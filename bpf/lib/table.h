/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef FL_TABLE_H
#define FL_TABLE_H

#include "maps.h"

/* The backend in the slot of a table that a hash falls into; NULL: none. */
static __always_inline struct backend *backend_in(__u32 base, __u32 len, __u32 hash, __u32 *id)
{
	struct slot_line *line;
	struct backend *b;
	__u32 slot, i;

	if (len == 0)
		return NULL;
	slot = base + hash % len;
	i = slot / SLOTS_PER_LINE;
	line = bpf_map_lookup_elem(&fl_slots, &i);
	if (!line)
		return NULL;
	*id = line->backend[slot % SLOTS_PER_LINE];
	b = bpf_map_lookup_elem(&fl_backends, id);
	return b && b->flags & BE_USED ? b : NULL;
}

static __always_inline struct backend *backend_at(const struct service *svc, __u32 hash, __u32 *id)
{
	return backend_in(svc->base, svc->len, hash, id);
}

#endif
