/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The VMM's process: notice its end by a pidfd, kill it when the policy says
 * so. Called by the attach and by the lost policy.
 */
#include "daemon/migration_parts.h"

#include <errno.h>

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>

#include "core/log.h"
#include "core/message_ids.h"
#include "daemon/migration_stranded.h"

#define VMM_ALIVE_DELAY_US 1000000

void migration_vmm_log_gone(const struct migration *m)
{
	log_event(LOG_NOTICE, MESSAGE_VMM_GONE,
	          LOG_FIELDS({"MIGRATION_ID", m->id_text},
	                     {"VMM_PID", LOG_U64((uint64_t)m->vmm_pid)}),
	          "migration %s: the VMM (pid %d) has ended", m->id_text, (int)m->vmm_pid);
}

static void vmm_ended(struct migration *m)
{
	if (m->keep.stranded)
		migration_stranded_vmm_gone(m);
	if (migration_state_final(m->state))
		return;
	migration_vmm_log_gone(m);
	if (m->completing)
		migration_end(m, MIGRATION_COMPLETED,
		              "all memory was here; the VMM (pid %d) exited before the source was "
		              "told",
		              (int)m->vmm_pid);
	else
		migration_end(m, MIGRATION_FAILED, "VMM exited (pid %d)", (int)m->vmm_pid);
}

static void on_vmm_exit(evutil_socket_t fd, short what, void *arg)
{
	(void)fd;
	(void)what;
	vmm_ended(arg);
}

int migration_vmm_watch(struct migration *m, pid_t pid, int pidfd, struct error *err)
{
	struct loop *loop = migration_table_loop(m->table);

	m->vmm_pid = pid;
	m->vmm_pidfd = pidfd;
	if (pidfd < 0) {
		log_migration(LOG_WARNING, m->id_text,
		              "migration %s: no pidfd of the VMM (pid %d): its end will be noticed "
		              "only when a page is placed",
		              m->id_text, (int)pid);
		return 0;
	}
	m->vmm_exit_event = event_new(loop_base(loop), pidfd, EV_READ, on_vmm_exit, m);
	if (!m->vmm_exit_event || event_add(m->vmm_exit_event, NULL) < 0)
		return error_set(err, -ENOMEM, "not enough memory to watch the VMM");
	return 0;
}

/* A process that ends closes its sockets before its pidfd tells: wait a little. */
void migration_vmm_hung_up(struct migration *m)
{
	migration_keep_drop_connection(m);
	timer_start(m->vmm_alive_timer, VMM_ALIVE_DELAY_US);
}

void migration_on_vmm_alive(evutil_socket_t fd, short what, void *arg)
{
	struct migration *m = arg;

	(void)fd;
	(void)what;
	if (!migration_state_final(m->state))
		log_event(LOG_WARNING, MESSAGE_VMM_DISCONNECTED,
		          LOG_FIELDS({"MIGRATION_ID", m->id_text},
		                     {"VMM_PID", LOG_U64((uint64_t)m->vmm_pid)}),
		          "migration %s: the VMM (pid %d) closed its connection, but lives: its "
		          "memory is still served",
		          m->id_text, (int)m->vmm_pid);
}

void migration_vmm_kill(struct migration *m, char *text, size_t text_len)
{
	if (m->vmm_pidfd < 0)
		snprintf(text, text_len, "the VMM (pid %d) was not killed: there is no pidfd of it",
		         (int)m->vmm_pid);
	else if (syscall(SYS_pidfd_send_signal, m->vmm_pidfd, SIGKILL, NULL, 0) == 0)
		snprintf(text, text_len, "the VMM (pid %d) was killed", (int)m->vmm_pid);
	else
		snprintf(text, text_len,
		         "the VMM (pid %d) could not be killed (%s): stop it, or give the daemon "
		         "CAP_KILL",
		         (int)m->vmm_pid, strerror(errno));
}
