/* SPDX-License-Identifier: Apache-2.0 */
/* What config.c needs to know of the parsers' fields; private to core. */
#ifndef CORE_CONFIG_VALUE_H
#define CORE_CONFIG_VALUE_H

#include "core/config.h"

/* Bytes of the field that a parser fills; an unknown parser fills an int or enum. */
size_t config_value_size(config_parse_fn parse);

#endif
