/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Private to lib/wire: the numbers of a Migration, which have the same names in
 * struct control_migration and in the protocol.
 */
#ifndef WIRE_CONTROL_NUMBERS_H
#define WIRE_CONTROL_NUMBERS_H

#define CONTROL_MIGRATION_NUMBERS(X) \
	X(lanes)                     \
	X(started_us)                \
	X(total_time_us)             \
	X(downtime_us)               \
	X(memory_total)              \
	X(memory_remaining)          \
	X(memory_processed)          \
	X(memory_bps)                \
	X(bandwidth)                 \
	X(pages_data)                \
	X(pages_zero)                \
	X(pages_poisoned)            \
	X(pages_removed)             \
	X(pages_urgent)              \
	X(pages_stream)              \
	X(postcopy_requests)         \
	X(faults)                    \
	X(faults_local)              \
	X(fault_p50_ns)              \
	X(fault_p99_ns)              \
	X(fault_p999_ns)             \
	X(fault_max_ns)              \
	X(lost_bytes)                \
	X(reconnects)                \
	X(eta_us)                    \
	X(lost_left_us)

#endif
