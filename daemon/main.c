/* SPDX-License-Identifier: Apache-2.0 */
/*
 * postcopyd: its command line, and what net/service.c has to know. All else is
 * in daemon.c and below.
 */
#include "daemon/daemon.h"
#include "daemon/drain.h"
#include "daemon/status_line.h"
#include "net/service.h"

struct program {
	const char *config; /* NULL: the default path, if it is there */
	struct settings_overrides overrides;
	struct settings *settings; /* loaded, until the daemon has them */
	struct daemon *daemon;
	struct status_line *status;
};

static const char usage[] = "Usage: postcopyd [OPTION]...\n"
                            "Serve the page faults of guests that are migrated to this host.\n"
                            "\n"
                            "  --config FILE      settings (default " SETTINGS_PATH_DEFAULT ")\n"
                            "  --control PATH     control socket\n"
                            "  --attach PATH      attach socket\n"
                            "  --status PATH      status socket\n"
                            "  --cert FILE        certificate chain, PEM\n"
                            "  --key FILE         private key, PEM\n"
                            "  --ca FILE          what sources are verified against, PEM\n"
                            "  --log-level LEVEL  error, warning, notice, info or debug\n"
                            "  --help             show this and exit\n"
                            "  --version          show the version and exit\n"
                            "\n"
                            "Options override the file. See postcopyd(8) and postcopyd.conf(5).\n";

static int settings_read(const struct program *p, struct settings **ret, struct error *err)
{
	return settings_load(service_config_path(p->config, SETTINGS_PATH_DEFAULT), &p->overrides,
	                     ret, err);
}

static int load(void *user, enum log_target *ret_target, int *ret_level, struct error *err)
{
	struct program *p = user;
	int r = settings_read(p, &p->settings, err);

	if (r < 0)
		return r;
	*ret_target = (enum log_target)p->settings->log_target;
	*ret_level = p->settings->log_level;
	return 0;
}

static void ready(void *user)
{
	status_line_tell(((struct program *)user)->status);
}

static int start(void *user, struct loop **ret_loop, struct error *err)
{
	struct program *p = user;
	int r = daemon_new(TAKE_PTR(p->settings), &p->daemon, err);

	if (r < 0)
		return r;
	r = status_line_new(daemon_migrations(p->daemon), &p->status);
	if (r < 0)
		return error_set(err, r, "not enough memory");
	*ret_loop = daemon_loop(p->daemon);
	return 0;
}

static int reload(void *user, struct error *err)
{
	struct program *p = user;
	struct settings *settings;
	int r = settings_read(p, &settings, err);

	return r < 0 ? r : daemon_reload(p->daemon, settings, err);
}

/*
 * A guest that depends on us is not left behind, unless that is forced. A restart leaves
 * nobody behind where a service manager keeps what the next daemon needs.
 */
static bool stop(void *user, const struct service_stop *how)
{
	struct program *p = user;
	unsigned n = drain_count(daemon_migrations(p->daemon));
	bool restart = how->restarting && daemon_kept(p->daemon);
	char names[DRAIN_NAMES_MAX];

	if (restart)
		daemon_set_restarting(p->daemon);
	if (n == 0 || restart || how->forced) {
		log_notice("received SIG%s%s: ending with %u live migrations", how->signal_name,
		           restart       ? " for a restart"
		           : how->forced ? " again"
		                         : "",
		           migration_table_count_live(daemon_migrations(p->daemon)));
		return true;
	}
	log_warning("received SIG%s, but this daemon is needed by %u migration%s: %s; it goes on, "
	            "takes no new one, and ends after the last; a second signal ends it now",
	            how->signal_name, n, n == 1 ? "" : "s",
	            drain_names(daemon_migrations(p->daemon), names, sizeof(names)));
	if (daemon_drain(p->daemon) < 0) {
		log_error("not enough memory to wait for them: ending");
		return true;
	}
	status_line_tell(p->status);
	return false;
}

static bool alive(void *user, uint64_t allowed_us)
{
	return daemon_alive(((struct program *)user)->daemon, allowed_us);
}

static void end(void *user)
{
	struct program *p = user;

	p->status = status_line_free(p->status);
	p->daemon = daemon_free(p->daemon);
}

int main(int argc, char **argv)
{
	struct program program = {0};
	const struct service_option options[] = {
	        {"config", &program.config},
	        {"control", &program.overrides.control},
	        {"attach", &program.overrides.attach},
	        {"status", &program.overrides.status},
	        {"cert", &program.overrides.certificate},
	        {"key", &program.overrides.key},
	        {"ca", &program.overrides.ca},
	        {"log-level", &program.overrides.log_level},
	};
	const struct service service = {
	        .name = "postcopyd",
	        .usage = usage,
	        .options = options,
	        .n_options = ARRAY_SIZE(options),
	        .load = load,
	        .start = start,
	        .reload = reload,
	        .ready = ready,
	        .stop = stop,
	        .alive = alive,
	        .end = end,
	        .user = &program,
	};

	return service_run(&service, argc, argv);
}
