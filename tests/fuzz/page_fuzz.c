/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzz target: a stream of frames, as it comes from a peer's connection. What
 * decodes must encode, and decode again.
 */
#include <errno.h>
#include <string.h>

#include "fuzz.h"
#include "wire/page_message.h"

static void check_again(struct page_decoder *again, const struct page_message *m)
{
	static uint8_t buf[FRAME_MAX];
	struct page_message copy;
	struct frame frame;
	ssize_t n = page_message_encode(m, buf, PAGE_MESSAGE_HEAD_MAX);

	FUZZ_CHECK(n > 0);
	if (m->type == PAGE_MESSAGE_PAGES && m->pages.bytes_len > 0)
		memcpy(buf + n, m->pages.bytes, m->pages.bytes_len);
	if (m->type == PAGE_MESSAGE_RESUME && m->resume.bitmap_len > 0)
		memcpy(buf + n, m->resume.bitmap, m->resume.bitmap_len);
	FUZZ_CHECK(frame_parse(buf, sizeof(buf), &frame, NULL) >= n);
	FUZZ_CHECK(page_message_decode(again, &frame, &copy, NULL) == 0);
	FUZZ_CHECK(copy.type == m->type);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct page_decoder *decoder, *again;
	struct error err = {0};
	struct page_message m;
	struct frame frame;
	ssize_t n;
	int r;

	if (!decoder)
		FUZZ_CHECK(page_decoder_new(&decoder) == 0 && page_decoder_new(&again) == 0);
	while ((n = frame_parse(data, size, &frame, &err)) > 0) {
		FUZZ_CHECK((size_t)n <= size && frame.payload + frame.payload_len == data + n);
		r = page_message_decode(decoder, &frame, &m, &err);
		FUZZ_CHECK(r == 0 || ((r == -EBADMSG || r == -EPROTO) && err.text[0]));
		if (r == 0)
			check_again(again, &m);
		data += n;
		size -= (size_t)n;
	}
	FUZZ_CHECK(n == 0 || ((n == -EMSGSIZE || n == -EBADMSG) && err.text[0]));
	return 0;
}
