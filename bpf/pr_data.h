/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A command's data: where it lies in the kernel's memory, and how to copy it.
 *
 * Remembered at submission, read when the command ends.  Two conventions of block/blk-map.c say what
 * can be read then:
 *   - bi_end_io is 0: the data is mapped or copied for user space.  Whoever submitted the request
 *     unmaps it after rq->end_io().  Ending the request advances bi_iter, and leaves bi_io_vec,
 *     bi_vcnt, bi_next and the pages alone.
 *   - bi_end_io is set: the data is the kernel's own, and the bio is freed before rq->end_io() is
 *     called.  bi_private is then the caller's buffer, into which the reply has been copied; without
 *     it, the bio's only segment is that buffer.  A list on the stack was copied to a page that is
 *     freed as well; but nobody can have written to it since the submission.
 * The self-test (prtrace/probe/selftest.py) compares what is read so with what the sender got.
 */
#ifndef PR_DATA_H
#define PR_DATA_H

#define PR_DATA_OUT 0x5f	/* PERSISTENT RESERVE OUT */

/* Find a request's data, before anything of it is consumed. */
__noinline int pr_find_data(struct pr_pending *pending, __u64 request)
{
	struct request *rq = (void *)request;
	__u64 end = 0, own = 0, page = 0;
	struct bio_vec *segments = 0;
	__u32 length = 0, offset = 0;
	struct bio *bio = 0;

	if (!pending)
		return 0;
	pending->place = PR_PLACE_NONE;
	PR_GET(pending->data_length, rq, __data_len);
	PR_GET(bio, rq, bio);
	if (!bio)
		return 0;
	pending->bio = (__u64)bio;
	PR_GET(pending->bio_index, bio, bi_iter.bi_idx);
	pending->bio_skip = pr_bio_skip(bio);
	PR_GET(end, bio, bi_end_io);
	if (!end) {
		pending->place = PR_PLACE_BIO;
		return 0;
	}
	if (pending->opcode == PR_DATA_OUT) {
		pending->place = PR_PLACE_HEAD;
		return 0;
	}
	PR_GET(own, bio, bi_private);
	if (!own) {
		PR_GET(segments, bio, bi_io_vec);
		PR_GET(page, segments, bv_page);
		PR_GET(offset, segments, bv_offset);
		PR_GET(length, segments, bv_len);
		if (length >= pending->data_length)
			own = pr_page_address(page, offset);
	}
	pending->kernel = own;
	if (own)
		pending->place = PR_PLACE_KERNEL;
	return 0;
}

/* Stand at the beginning of the data, to copy want bytes.  place: where it is now. */
static __always_inline void pr_walk_from_start(struct pr_pending *pending, __u32 place, __u32 want)
{
	volatile struct pr_walk *walk = &pending->walk;

	walk->place = place;
	walk->at = place == PR_PLACE_BIO ? pending->bio : pending->kernel;
	walk->index = pending->bio_index;
	walk->inside = pending->bio_skip;
	walk->copied = 0;
	walk->want = want;
}

enum pr_located {
	PR_LOCATED_NOTHING,	/* there is no more */
	PR_LOCATED_PART,
	PR_LOCATED_NEXT,	/* the data goes on in the next segment: look again */
};

/* Find the next part, of at most chunk bytes and of one segment. */
__noinline int pr_locate(volatile struct pr_walk *walk, __u32 chunk)
{
	__u32 length = 0, offset = 0, part;
	struct bio_vec *segment = 0;
	struct bio *bio, *next = 0;
	__u16 segments = 0;
	__u64 page = 0;

	if (!walk || walk->copied >= walk->want)
		return PR_LOCATED_NOTHING;
	part = walk->want - walk->copied;
	if (walk->place == PR_PLACE_KERNEL) {
		walk->from = walk->at + walk->copied;
		walk->part = part < chunk ? part : chunk;
		return walk->at ? PR_LOCATED_PART : PR_LOCATED_NOTHING;
	}
	bio = (void *)walk->at;
	if (walk->place != PR_PLACE_BIO || !bio)
		return PR_LOCATED_NOTHING;
	PR_GET(segments, bio, bi_vcnt);
	PR_GET(next, bio, bi_next);
	/*
	 * A bio over a buffer that is registered with io_uring borrows its segments, and Linux 7 does not
	 * count those.  It is its request's only bio, and so ends where there is nothing left to copy.
	 */
	if (walk->index >= segments && (segments || next)) {
		walk->at = (__u64)next;
		walk->index = 0;
		walk->inside = 0;
		return next ? PR_LOCATED_NEXT : PR_LOCATED_NOTHING;
	}
	PR_GET(segment, bio, bi_io_vec);
	segment = (void *)segment + (__u64)walk->index * PR_SIZEOF(struct bio_vec);
	PR_GET(page, segment, bv_page);
	PR_GET(offset, segment, bv_offset);
	PR_GET(length, segment, bv_len);
	if (walk->inside >= length) {
		walk->index++;
		walk->inside = 0;
		return PR_LOCATED_NEXT;
	}
	if (part > length - walk->inside)
		part = length - walk->inside;
	if (part > chunk)
		part = chunk;
	walk->part = part;
	walk->from = pr_page_address(page, offset + walk->inside);
	walk->inside += part;
	if (walk->inside >= length) {
		walk->index++;
		walk->inside = 0;
	}
	return walk->from ? PR_LOCATED_PART : PR_LOCATED_NOTHING;
}

/*
 * One step of a copy: up to chunk bytes of one segment to to + copied.  to has room for
 * cap + chunk bytes, because the verifier does not relate the offset to the length.
 * Returns 0 when there is nothing more to do.
 *
 * Keep the walk in memory and volatile, so that every step looks the same to the verifier: held in
 * registers, which is where it is when bcc inlines everything, the verifier explores each
 * combination of its values, for minutes.
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
	if (copied >= cap)
		return 0;
	PR_AT_MOST(copied, cap - 1);
	PR_AT_MOST(part, chunk);
	if (bpf_probe_read_kernel(to + copied, part, (void *)walk->from))
		return 0;
	walk->copied = copied + part;
	return 1;
}

/*
 * Unroll a copy's steps.  On 6.1 the verifier creates no pruning point after a call of a global
 * function, so that it looks at each round of a rolled loop anew and exceeds its limit.
 */
#define PR_COPY(to, walk, chunk, cap, steps) \
	({ \
		_Pragma("unroll") \
		for (int _i = 0; _i < (steps); _i++) \
			if (!pr_copy_step(to, walk, chunk, cap)) \
				break; \
	})

/*
 * Keep the beginning of what a request will send, however many segments it spans.  With an alignment
 * of 4 bytes that is 7 segments at most; each bio may be one step more.
 */
__noinline int pr_read_head(struct pr_pending *pending)
{
	__u32 want;

	if (!pending)
		return 0;
	want = pending->data_length < PR_HEAD_SIZE ? pending->data_length : PR_HEAD_SIZE;
	pr_walk_from_start(pending, PR_PLACE_BIO, want);
	/* What follows head in the structure is the room that pr_copy_step wants. */
	PR_COPY(pending->head, &pending->walk, PR_HEAD_SIZE, PR_HEAD_SIZE, 10);
	if (pending->walk.copied == want)
		pending->head_length = want;
	return 0;
}

/* How many bytes of a reply are worth keeping: as many as it says it holds. */
__noinline __u32 pr_reply_length(struct pr_pending *pending, __u32 place, __u32 length)
{
	__u8 start[16] = {};
	__u32 claim;

	if (!pending)
		return 0;
	pr_walk_from_start(pending, place, 8);
	PR_COPY(start, &pending->walk, 8, 8, 4);
	if (pending->walk.copied < 8)
		return length;
	claim = (__u32)start[4] << 24 | (__u32)start[5] << 16 | (__u32)start[6] << 8 | start[7];
	if (claim < length && claim + 8 < length)
		length = claim + 8;
	return length;
}

#endif
