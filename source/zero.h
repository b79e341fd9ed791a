/* SPDX-License-Identifier: Apache-2.0 */
/* Is a page all zeros? */
#ifndef SOURCE_ZERO_H
#define SOURCE_ZERO_H

#include <stdbool.h>
#include <stdint.h>

/* page: WIRE_PAGE_SIZE bytes at any alignment. */
bool zero_page(const uint8_t *page);

#endif
