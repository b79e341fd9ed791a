/* SPDX-License-Identifier: Apache-2.0 */
/* The guest's program: a flat image for GUEST_LOAD that starts with its struct guest_head. */
#ifndef VMM_PAYLOAD_IMAGE_H
#define VMM_PAYLOAD_IMAGE_H

#include <stdint.h>

extern const uint8_t payload_image[], payload_image_end[];

#endif
