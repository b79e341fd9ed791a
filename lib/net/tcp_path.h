/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How much of a stream may be on its way. Called by channel.c once a connection
 * is up, when its round-trip time is known.
 */
#ifndef NET_TCP_PATH_H
#define NET_TCP_PATH_H

/*
 * On a short path (a LAN, loopback) the kernel's buffers get this size, so that
 * little of the stream waits in them: a change of position takes effect soon,
 * and the CPU's caches hold what is decrypted next. A path that holds more than
 * that by itself keeps the buffers that the kernel sizes, or it could not be
 * filled; there only what was not sent yet is kept short.
 *
 * Sockets that are not TCP, and kernels that refuse: costs speed only.
 */
void tcp_path_fit(int fd, int bytes);

#endif
