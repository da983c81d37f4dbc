/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A command's data: where it lies in the kernel's memory, and how to copy it. */
#ifndef PR_DATA_H
#define PR_DATA_H

static __always_inline __u64 pr_variable(const void *at)
{
	__u64 value = 0;

	bpf_probe_read_kernel(&value, sizeof(value), at);
	return value;
}

/*
 * The kernel's own address of a segment's bytes; 0 if there is none.  x86-64: memory that
 * a scatterlist points at is in the direct map.
 */
static __always_inline __u64 pr_segment_address(__u64 page_link, __u32 offset)
{
	__u64 page = page_link & ~3ULL;	/* SG_CHAIN, SG_END */
	__u64 frame;

	if (!page)
		return 0;
	frame = (page - pr_variable(PR_VMEMMAP_BASE)) / PR_SIZEOF(struct page);
	return pr_variable(PR_PAGE_OFFSET_BASE) + frame * 4096 + offset;
}

/*
 * Read n bytes at the beginning of what a request will send; fails if they span segments.
 * The midlayer makes its scatterlist of these segments later; none of them is consumed yet.
 */
static __always_inline int pr_read_submitted(struct request *rq, void *to, __u32 n)
{
	__u32 offset = 0, length = 0;
	struct bio_vec *segment = 0;
	struct bio *bio = 0;
	__u64 page = 0, from;

	PR_GET(bio, rq, bio);
	if (!bio)
		return -1;
	PR_GET(segment, bio, bi_io_vec);
	if (!segment)
		return -1;
	PR_GET(page, segment, bv_page);
	PR_GET(offset, segment, bv_offset);
	PR_GET(length, segment, bv_len);
	from = pr_segment_address(page, offset);
	if (!from || length < n)
		return -1;
	return bpf_probe_read_kernel(to, n, (void *)from);
}

/* Read n bytes at the beginning of the command's data; fails if they span segments. */
static __always_inline int pr_read_first(struct scsi_cmnd *cmd, void *to, __u32 n)
{
	struct scatterlist *sg = 0;
	__u64 link = 0, from;
	__u32 offset = 0, length = 0;

	PR_GET(sg, cmd, sdb.table.sgl);
	if (!sg)
		return -1;
	PR_GET(link, sg, page_link);
	PR_GET(offset, sg, offset);
	PR_GET(length, sg, length);
	from = pr_segment_address(link, offset);
	if (!from || length < n)
		return -1;
	return bpf_probe_read_kernel(to, n, (void *)from);
}

/* Where a copy stands. */
struct pr_walk {
	__u64 sg;
	__u64 from;	/* the kernel's address of the next part */
	__u32 length;	/* of the segment; 0 before it was looked at */
	__u32 inside;	/* bytes done of it */
	__u32 last;	/* it is the last one */
	__u32 part;	/* bytes of the next part */
	__u32 copied;
	__u32 want;
};

enum pr_located {
	PR_LOCATED_NOTHING,	/* there is no more */
	PR_LOCATED_CHAIN,	/* the list goes on elsewhere: look again */
	PR_LOCATED_PART,
};

/* Find the next part, of at most chunk bytes and of one segment. */
PR_APART int pr_locate(volatile struct pr_walk *walk, __u32 chunk)
{
	struct scatterlist *sg;
	__u32 offset = 0, length = 0, part;
	__u64 link = 0;

	if (!walk)
		return PR_LOCATED_NOTHING;
	if (walk->length && walk->inside >= walk->length) {
		walk->sg = walk->last ? 0 : walk->sg + PR_SIZEOF(struct scatterlist);
		walk->inside = 0;
	}
	sg = (void *)walk->sg;
	if (!sg || walk->copied >= walk->want)
		return PR_LOCATED_NOTHING;
	PR_GET(link, sg, page_link);
	PR_GET(offset, sg, offset);
	PR_GET(length, sg, length);
	if (link & 1) {	/* SG_CHAIN */
		walk->sg = link & ~3ULL;
		walk->length = 0;
		return PR_LOCATED_CHAIN;
	}
	walk->last = (link & 2) != 0;	/* SG_END */
	walk->length = length;
	part = walk->want - walk->copied;
	if (part > length - walk->inside)
		part = length - walk->inside;
	if (part > chunk)
		part = chunk;
	walk->part = part;
	walk->from = pr_segment_address(link, offset + walk->inside);
	return part && walk->from ? PR_LOCATED_PART : PR_LOCATED_NOTHING;
}

/*
 * One step of a copy: up to chunk bytes of one segment to to + copied.  to has room for
 * cap + chunk bytes, because the verifier does not relate the offset to the length.
 * Returns 0 when there is nothing more to do.
 *
 * walk lives in the ring record and is volatile: what the verifier loads from there it
 * knows nothing about, so every step starts from the same state.  In registers, which is where
 * it is when bcc inlines everything, the same steps take the verifier minutes.
 */
static __always_inline int pr_copy_step(__u8 *to, volatile struct pr_walk *walk, __u32 chunk,
					__u32 cap)
{
	int located = pr_locate(walk, chunk);
	__u64 part, copied;

	if (located != PR_LOCATED_PART)
		return located;
	part = walk->part;
	copied = walk->copied;
	PR_OPAQUE(part);
	PR_OPAQUE(copied);
	if (part > chunk || copied >= cap ||
	    bpf_probe_read_kernel(to + copied, part, (void *)walk->from))
		return 0;
	walk->inside += part;
	walk->copied = copied + part;
	return 1;
}

#endif
