/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef FL_FRAG_H
#define FL_FRAG_H

#include "emit.h"
#include "rewrite.h"

/*
 * Only the first fragment of a datagram has ports. Its translation is kept for
 * those that follow it; one that comes before it is dropped and counted, never
 * sent to a backend that may be the wrong one.
 */

/* Jiffies an entry holds: an IP id may come again. Two to twenty seconds, by HZ. */
#define FRAG_LIFE 2000

static __always_inline void frag_key_fill(struct frag_key *k, const struct pkt *p)
{
	k->src = p->key->src;
	k->dst = p->key->dst;
	k->id = p->id;
	k->proto = p->key->proto;
}

static __always_inline void frag_remember(const struct pkt *p, const struct xlate *x, const struct hop *h, enum reason why)
{
	struct scratch *s = scratch();

	if (!s)
		return;
	s->frag_key = (struct frag_key){};
	frag_key_fill(&s->frag_key, p);
	s->frag.src = x->src;
	s->frag.dst = x->dst;
	s->frag.seen = bpf_jiffies64();
	s->frag.hop = *h;
	s->frag.tc = p->tc;
	s->frag.reason = why;
	bpf_map_update_elem(&fl_frags, &s->frag_key, &s->frag, BPF_ANY);
}

static __always_inline struct frag *frag_find(const struct pkt *p)
{
	struct scratch *s = scratch();
	struct frag *f;

	if (!s)
		return NULL;
	s->frag_key = (struct frag_key){};
	frag_key_fill(&s->frag_key, p);
	f = bpf_map_lookup_elem(&fl_frags, &s->frag_key);
	/* What TC remembers XDP cannot send. */
	if (!f || bpf_jiffies64() - f->seen > FRAG_LIFE || (f->tc && !p->tc))
		return NULL;
	return f;
}

/* Translates the addresses of a later fragment; the L4 checksum is in the first one. */
static __always_inline int frag_rewrite(struct pkt *p, const struct frag *f)
{
	return ip_rewrite(p, &f->src, &f->dst, csum_diff_addrs(p->v6, &p->key->src, &p->key->dst, &f->src, &f->dst));
}

#endif
