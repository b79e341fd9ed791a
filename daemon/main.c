/* SPDX-License-Identifier: Apache-2.0 */
/*
 * postcopyd: its command line, and what net/service.c has to know. All else is
 * in daemon.c and below.
 */
#include <systemd/sd-daemon.h>

#include "daemon/daemon.h"
#include "net/service.h"

struct program {
	const char *config; /* NULL: the default path, if it is there */
	struct settings_overrides overrides;
	struct settings *settings; /* loaded, until the daemon has them */
	struct daemon *daemon;
	struct migration_listener *listener;
	unsigned n_live_told;
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

static void tell_status(void *user)
{
	struct program *p = user;

	p->n_live_told = migration_table_count_live(daemon_migrations(p->daemon));
	sd_notifyf(0, "STATUS=%u live migrations", p->n_live_told);
}

static void on_change(const struct migration *m, void *user)
{
	struct program *p = user;

	(void)m;
	if (migration_table_count_live(daemon_migrations(p->daemon)) != p->n_live_told)
		tell_status(p);
}

static int start(void *user, struct loop **ret_loop, struct error *err)
{
	struct program *p = user;
	int r = daemon_new(TAKE_PTR(p->settings), &p->daemon, err);

	if (r < 0)
		return r;
	r = migration_table_listen(daemon_migrations(p->daemon), on_change, p, &p->listener);
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

static void stop(void *user, const char *signal_name)
{
	const struct program *p = user;

	log_notice("received SIG%s: ending with %u live migrations", signal_name,
	           migration_table_count_live(daemon_migrations(p->daemon)));
}

static void end(void *user)
{
	struct program *p = user;

	if (p->daemon)
		migration_table_unlisten(daemon_migrations(p->daemon), p->listener);
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
	        .ready = tell_status,
	        .stop = stop,
	        .end = end,
	        .user = &program,
	};

	return service_run(&service, argc, argv);
}
