/* SPDX-License-Identifier: Apache-2.0 */
/* Time: monotonic for durations and deadlines, real time for records. */
#ifndef CORE_CLOCK_H
#define CORE_CLOCK_H

#include <stdint.h>

uint64_t clock_monotonic_ns(void);
uint64_t clock_monotonic_us(void);
uint64_t clock_realtime_us(void); /* since the epoch */

#endif
