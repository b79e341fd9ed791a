/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From a parsed command line to the request that it means; no I/O but reading
 * a token file. Released by control_request_free().
 */
#ifndef CTL_REQUEST_H
#define CTL_REQUEST_H

#include "ctl/command.h"
#include "wire/control_message.h"

/* By the command's name. 0, or -EINVAL (and -errno of a token file) with a text. */
int request_from_invocation(const struct invocation *inv, struct control_request *ret,
                            struct error *err);

#endif
