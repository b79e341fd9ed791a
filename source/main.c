/* SPDX-License-Identifier: Apache-2.0 */
/*
 * postcopy-sourced: its command line, and what net/service.c has to know. All
 * else is in agent.c and below.
 */
#include <systemd/sd-daemon.h>

#include "core/cleanup.h"
#include "core/message_ids.h"
#include "net/service.h"
#include "source/agent.h"

struct program {
	const char *config; /* NULL: the default path, if it is there */
	struct settings_overrides overrides;
	struct settings *settings; /* loaded, until the agent has them */
	struct agent *agent;
};

static const char usage[] =
        "Usage: postcopy-sourced [OPTION]...\n"
        "Serve the frozen memory of guests that have left this host, and what is lost of it.\n"
        "\n"
        "  --config FILE           settings (default " SETTINGS_PATH_DEFAULT ")\n"
        "  --listen HOST:PORT      where destinations connect\n"
        "  --export-socket PATH    where VMMs export memory\n"
        "  --control-socket PATH   for postcopyctl\n"
        "  --cert FILE             certificate chain, PEM\n"
        "  --key FILE              private key, PEM\n"
        "  --ca FILE               what destinations are verified against, PEM\n"
        "  --log-level LEVEL       error, warning, notice, info or debug\n"
        "  --help                  show this and exit\n"
        "  --version               show the version and exit\n"
        "\n"
        "Options override the file. See postcopy-sourced(8).\n";

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

static int start(void *user, struct loop **ret_loop, struct error *err)
{
	struct program *p = user;
	int r = agent_new(p->settings, &p->agent, err);

	if (r < 0)
		return r;
	p->settings = NULL;
	*ret_loop = agent_loop(p->agent);
	return 0;
}

static int reload(void *user, struct error *err)
{
	struct program *p = user;
	struct settings *settings = NULL;
	int r = settings_read(p, &settings, err);

	if (r == 0)
		r = agent_reload(p->agent, settings, err);
	if (r < 0)
		settings_free(settings);
	return r;
}

static void log_left(const struct program *p, const struct service_stop *how)
{
	unsigned live = agent_live_exports(p->agent), serving = agent_serving(p->agent);
	char names[AGENT_NAMES_MAX];

	log_event(live ? LOG_WARNING : LOG_NOTICE, live ? MESSAGE_EXPORTS_LEFT : NULL,
	          LOG_FIELDS({"LIVE_EXPORTS", LOG_U64(live)}),
	          "received SIG%s%s: ending with %u live exports%s%s", how->signal_name,
	          how->forced ? " again" : "", live,
	          serving ? "; their guests wait on other hosts: " : "",
	          agent_serving_names(p->agent, names, sizeof(names)));
}

/*
 * A guest that takes pages is not left behind, unless that is forced. A restart leaves
 * nobody behind where a service manager keeps what the next agent needs.
 */
static bool stop(void *user, const struct service_stop *how)
{
	const struct program *p = user;
	char names[AGENT_NAMES_MAX];

	if (how->restarting && agent_kept(p->agent)) {
		log_notice("received SIG%s for a restart: ending with %u live exports, which go "
		           "on when the agent has been started again",
		           how->signal_name, agent_live_exports(p->agent));
		return true;
	}
	if (how->forced || agent_serving(p->agent) == 0) {
		log_left(p, how);
		return true;
	}
	agent_serving_names(p->agent, names, sizeof(names));
	log_warning("received SIG%s, but guests on other hosts depend on this agent: %s; it goes "
	            "on, takes no new export, and ends after the last; a second signal ends "
	            "it now",
	            how->signal_name, names);
	sd_notifyf(0, "STATUS=Stopping; waiting for the guests of %s", names);
	if (agent_drain(p->agent) == 0)
		return false;
	log_error("not enough memory to wait for them: ending");
	return true;
}

static void end(void *user)
{
	struct program *p = user;

	p->agent = agent_free(p->agent);
	p->settings = settings_free(p->settings);
}

int main(int argc, char **argv)
{
	struct program program = {0};
	const struct service_option options[] = {
	        {"config", &program.config},
	        {"listen", &program.overrides.listen},
	        {"export-socket", &program.overrides.export_socket},
	        {"control-socket", &program.overrides.control_socket},
	        {"cert", &program.overrides.certificate},
	        {"key", &program.overrides.key},
	        {"ca", &program.overrides.ca},
	        {"log-level", &program.overrides.log_level},
	};
	const struct service service = {
	        .name = "postcopy-sourced",
	        .usage = usage,
	        .options = options,
	        .n_options = ARRAY_SIZE(options),
	        .load = load,
	        .start = start,
	        .reload = reload,
	        .stop = stop,
	        .end = end,
	        .user = &program,
	};

	return service_run(&service, argc, argv);
}
