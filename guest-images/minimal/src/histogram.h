/* SPDX-License-Identifier: MIT */
/*
 * Log-linear histogram of nanoseconds, after HdrHistogram. B = HISTOGRAM_BITS.
 *
 * Values below 2^(B+1) have a bucket each: index = value. Above, each power of two is cut into 2^B
 * buckets: with shift = floor(log2(value)) - B,
 *
 *	index = (shift << B) + (value >> shift)
 *
 * and back, for index >= 2^(B+1): shift = (index >> B) - 1,
 *
 *	lowest value of the bucket = (index - (shift << B)) << shift, width = 1 << shift.
 *
 * So a bucket is never wider than 2^-B (1.6 %) of its lowest value, every 64-bit value has a
 * bucket, and histograms with the same B merge by adding counts. As JSON:
 *
 *	{"sub_bucket_bits":B,"counts":[[index,count],...]}	ascending, only counts above 0.
 *
 * harness/record/histogram.py is the decoder.
 */
#ifndef HISTOGRAM_H
#define HISTOGRAM_H

#include <stdint.h>

#define HISTOGRAM_BITS 6
#define HISTOGRAM_BUCKETS ((64 - HISTOGRAM_BITS + 1) << HISTOGRAM_BITS)

static inline unsigned int histogram_index(uint64_t value)
{
	unsigned int top, shift;

	if (value >> (HISTOGRAM_BITS + 1) == 0)
		return (unsigned int)value;
	top = 63 - (unsigned int)__builtin_clzll(value);
	shift = top - HISTOGRAM_BITS;
	return (shift << HISTOGRAM_BITS) + (unsigned int)(value >> shift);
}

#endif
