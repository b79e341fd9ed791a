/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The guest's program (payload/), as the build made it, inside this VMM.
 */
#include "vmm/payload_image.h"

__asm__(".section .rodata\n"
        ".global payload_image, payload_image_end\n"
        ".balign 8\n"
        "payload_image:\n"
        ".incbin \"" PAYLOAD_FILE "\"\n"
        "payload_image_end:\n"
        ".previous\n");
