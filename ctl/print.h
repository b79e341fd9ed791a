/* SPDX-License-Identifier: Apache-2.0 */
/* Migrations and probe results for people (print.c) and for programs (json.c). */
#ifndef CTL_PRINT_H
#define CTL_PRINT_H

#include <stdio.h>

#include "ctl/probe.h"
#include "wire/control_message.h"

void print_list(FILE *out, const struct control_migration *m, size_t n);
void print_migration(FILE *out, const struct control_migration *m);
void print_probe(FILE *out, const struct probe_report *report);

/* One JSON value and a newline. Names are those of proto/control.proto. */
void json_print_list(FILE *out, const struct control_migration *m, size_t n);
void json_print_migration(FILE *out, const struct control_migration *m);
void json_print_probe(FILE *out, const struct probe_report *report);

/* "41 us", "3.1 ms", "-" for 0: into buf (24 bytes), returned. */
const char *format_latency(char *buf, size_t buf_len, uint64_t ns);

/* Of memory_total, what no longer has to come: 0..1. */
double migration_fraction(const struct control_migration *m);

#endif
