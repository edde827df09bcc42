/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef FL_CSUM_H
#define FL_CSUM_H

#include "types.h"

/* Internet checksum arithmetic (RFC 1071, RFC 1624), on words as they lie in memory. */

static __always_inline __u32 csum_fold32(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffffffff) + (sum >> 32);
	return sum;
}

/* The uncomplemented 16-bit sum. */
static __always_inline __u16 csum_fold16(__u64 sum)
{
	sum = csum_fold32(sum);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return sum;
}

/* Adds the difference of one 32-bit word. */
static __always_inline __u64 csum_diff32(__u64 sum, __u32 old, __u32 new)
{
	return sum + (__u32)~old + new;
}

/* The change of a pseudo-header when source and destination change. */
static __always_inline __u64 csum_diff_addrs(bool v6, const struct addr *osrc, const struct addr *odst, const struct addr *nsrc,
					     const struct addr *ndst)
{
	__u64 sum = csum_diff32(csum_diff32(0, osrc->w[3], nsrc->w[3]), odst->w[3], ndst->w[3]);

	for (int i = 0; v6 && i < 3; i++) {
		sum = csum_diff32(sum, osrc->w[i], nsrc->w[i]);
		sum = csum_diff32(sum, odst->w[i], ndst->w[i]);
	}
	return sum;
}

/* Updates a complemented checksum field by a difference (RFC 1624, equation 3). */
static __always_inline void csum_apply(__u16 *field, __u64 diff)
{
	*field = ~csum_fold16((__u16) ~*field + (__u64)csum_fold32(diff));
}

#endif
