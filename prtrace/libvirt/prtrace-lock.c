/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A lock-manager plugin of libvirt: asks prtrace-libvirt before a guest goes on.
 *
 * libvirt calls a lock manager at the only place between the pause of a migration and the guest's
 * going on: acquire() on the destination before the guest's processors start, and on the source
 * before they start again after a migration that failed in the pause.  acquire() may refuse, and
 * libvirt then ends the destination's QEMU, or leaves the guest paused.
 *
 * Only guests with a mark are asked about: RUN/incoming/UUID is the service's, RUN/outgoing/UUID is
 * made here when a migration begins (inquire()).  Where another plugin is in use ("lockd"), every
 * call is passed on to it: it locks first.
 *
 * The declarations are those of ABI version 1000000, which libvirt 9.0.0 and 11.3.0 load (their
 * src/locking/lock_driver.h says the same; libvirt installs no header of it).  The plugin refuses
 * to be loaded by another one.
 *
 * Configuration, /etc/libvirt/qemu-prtrace.conf, a line each; the values here are the defaults:
 *     run_dir = "/run/prtrace-libvirt"
 *     deadline = 30
 *     forward = ""
 * deadline: seconds; an answer that takes longer is a refusal.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define ABI_MAJOR 1
#define ABI_VERSION (ABI_MAJOR * 1000000)
#define REGISTER_ONLY 1u
#define UUID_PARAMETER 7
#define UUID_SIZE 16
#define SETTING_SIZE 200
#define PATH_SIZE (SETTING_SIZE + 64)

struct driver;

struct manager {
	struct driver *driver;
	void *private;
};

struct parameter {
	int type;
	const char *key;
	union {
		int i;
		long long l;
		unsigned int ui;
		unsigned long long ul;
		double d;
		char *str;
		const char *cstr;
		unsigned char uuid[UUID_SIZE];
	} value;
};

struct driver {
	unsigned int version;
	unsigned int flags;
	int (*init)(unsigned int version, const char *config, unsigned int flags);
	int (*deinit)(void);
	int (*new)(struct manager *, unsigned int type, size_t count, struct parameter *,
		   unsigned int flags);
	void (*free)(struct manager *);
	int (*add_resource)(struct manager *, unsigned int type, const char *name, size_t count,
			    struct parameter *, unsigned int flags);
	int (*acquire)(struct manager *, const char *state, unsigned int flags, int action, int *fd);
	int (*release)(struct manager *, char **state, unsigned int flags);
	int (*inquire)(struct manager *, char **state, unsigned int flags);
};

/* One guest, for one call or a few. */
struct guest {
	char uuid[37];
	struct manager other;
};

static char run_dir[SETTING_SIZE] = "/run/prtrace-libvirt";
static long deadline_s = 30;
static struct driver *other;
static int loaded = -1;

/* What libvirt shows to the user.  The function is libvirt's own and has no promise, so it is used in
 * the versions in which it was read only; without it libvirt says that the cause is unknown. */
static void report(const char *why)
{
	void (*helper)(int, int, const char *, const char *, size_t, const char *, ...);
	int (*get_version)(unsigned long *, const char *, unsigned long *);
	unsigned long version = 0;
	const int from_locking = 42, operation_failed = 9;

	*(void **)&get_version = dlsym(RTLD_DEFAULT, "virGetVersion");
	*(void **)&helper = dlsym(RTLD_DEFAULT, "virReportErrorHelper");
	if (!get_version || !helper || get_version(&version, NULL, NULL) < 0)
		return;
	if (version >= 9000000 && version < 12000000)
		helper(from_locking, operation_failed, __FILE__, __func__, __LINE__, "prtrace: %s", why);
}

static int refuse(const char *why)
{
	report(why);
	return -1;
}

static bool path_of(char *path, size_t size, const char *folder, const char *name)
{
	int length = snprintf(path, size, "%s/%s%s%s", run_dir, folder, *folder ? "/" : "", name);

	return length > 0 && (size_t)length < size;
}

static bool marked(const char *folder, const struct guest *guest)
{
	char path[PATH_SIZE];
	struct stat status;

	/* A mark that cannot be looked for counts as one: asking is the safe side. */
	return !path_of(path, sizeof(path), folder, guest->uuid) || stat(path, &status) == 0 ||
	       (errno != ENOENT && errno != ENOTDIR);
}

/* Says in run_dir that this daemon has loaded the plugin, for as long as it lives: the kernel drops
 * the lock with the process.  The process id in the file is for people; another process may have it
 * later.  A read lock: a daemon that is about to end may hold one, too. */
static int say_loaded(void)
{
	struct flock lock = { .l_type = F_RDLCK, .l_whence = SEEK_SET };
	char path[PATH_SIZE];

	if (loaded >= 0)
		return 0;
	if (!path_of(path, sizeof(path), "", "plugin"))
		return -1;
	/* Never closed, nor is another descriptor of the file: either would drop the lock. */
	loaded = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (loaded < 0)
		return -1;
	if (fcntl(loaded, F_SETLK, &lock) < 0 || ftruncate(loaded, 0) < 0 ||
	    dprintf(loaded, "%ld\n", (long)getpid()) < 0) {
		close(loaded);
		loaded = -1;
		return -1;
	}
	return 0;
}

static int write_file(const char *folder, const char *name, const char *text)
{
	char path[PATH_SIZE];
	int fd, done;

	if (!path_of(path, sizeof(path), folder, name))
		return -1;
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0)
		return -1;
	done = write(fd, text, strlen(text)) == (ssize_t)strlen(text) ? 0 : -1;
	return close(fd) < 0 ? -1 : done;
}

static long long now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (long long)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Waits until the socket is ready; false when the time is up. */
static bool ready(int fd, short events, long long end)
{
	struct pollfd poller = { .fd = fd, .events = events };
	long long left;
	int found;

	do {
		left = end - now_ms();
		if (left <= 0)
			return false;
		found = poll(&poller, 1, (int)left);
	} while (found < 0 && errno == EINTR);
	return found > 0;
}

static bool send_all(int fd, const char *text, size_t length, long long end)
{
	while (length) {
		ssize_t sent;

		if (!ready(fd, POLLOUT, end))
			return false;
		sent = send(fd, text, length, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (sent < 0 && errno != EAGAIN && errno != EINTR)
			return false;
		if (sent > 0) {
			text += sent;
			length -= (size_t)sent;
		}
	}
	return true;
}

/* Takes the string after "name": from JSON, without its escapes, for people. */
static void text_of(const char *json, const char *name, char *text, size_t size)
{
	const char *at = strstr(json, name);
	size_t length = 0;

	if (at)
		at = strchr(at + strlen(name), '"');
	for (at = at ? at + 1 : ""; *at && *at != '"' && length + 1 < size; at++) {
		if (*at == '\\' && at[1])
			at++;
		text[length++] = *at >= ' ' ? *at : ' ';
	}
	text[length] = 0;
}

/* The messages of the answer, one after the other: {"parameters": {"deadline": 9}, …}, then
 * {"parameters": {"allow": true, "why": ""}}. */
static int hear(int fd, long long end)
{
	char answer[8192], why[1024];
	size_t length = 0;

	while (length + 1 < sizeof(answer)) {
		ssize_t got;
		char *stop;

		answer[length] = 0;
		stop = memchr(answer, 0, length);
		if (stop) {
			if (strstr(answer, "\"allow\": true"))
				return 0;
			if (strstr(answer, "\"allow\": false")) {
				text_of(answer, "\"why\":", why, sizeof(why));
				return refuse(*why ? why : "refused");
			}
			if (!strstr(answer, "\"deadline\":"))
				return refuse("prtrace-libvirt refuses the call; see its log");
			length -= (size_t)(stop + 1 - answer);
			memmove(answer, stop + 1, length);
			continue;
		}
		if (!ready(fd, POLLIN, end))
			return refuse("prtrace-libvirt did not answer in time; see its log");
		got = recv(fd, answer + length, sizeof(answer) - 1 - length, MSG_DONTWAIT);
		if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR))
			return refuse("prtrace-libvirt gave no answer; see its log");
		if (got > 0)
			length += (size_t)got;
	}
	return refuse("prtrace-libvirt gave a long answer");
}

static int ask(const struct guest *guest)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	long long end = now_ms() + deadline_s * 1000;
	char call[256];
	int fd, length, result;

	if (!path_of(address.sun_path, sizeof(address.sun_path), "", "io.prtrace.libvirt"))
		return refuse("the path of run_dir is too long");
	length = snprintf(call, sizeof(call),
			  "{\"method\":\"io.prtrace.libvirt.Acquire\",\"more\":true,"
			  "\"parameters\":{\"uuid\":\"%s\"}}",
			  guest->uuid);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return refuse("no socket can be made");
	if (connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
		result = refuse("a move of this guest is unfinished, and prtrace-libvirt does not listen");
	else if (!send_all(fd, call, (size_t)length + 1, end))
		result = refuse("prtrace-libvirt takes no call");
	else
		result = hear(fd, end);
	close(fd);
	return result;
}

/* Takes one line of the configuration. */
static bool take_setting(char *line, char *forward, size_t size)
{
	char name[16] = "", text[SETTING_SIZE] = "", end = 0;
	long seconds;

	line += strspn(line, " \t\n");
	if (!*line || *line == '#')
		return true;
	if (sscanf(line, "deadline = %ld", &seconds) == 1 && seconds > 0 && seconds <= 3600) {
		deadline_s = seconds;
		return true;
	}
	if (!strncmp(line, "forward = \"\"", strlen("forward = \"\"")))
		return true;
	/* Without its closing quote the value is longer than there is room for. */
	if (sscanf(line, "%15[a-z_] = \"%199[^\"]%c", name, text, &end) != 3 || end != '"')
		return false;
	if (!strcmp(name, "run_dir") && *text == '/') {
		strcpy(run_dir, text);
		return true;
	}
	if (!strcmp(name, "forward") && !strchr(text, '/'))
		return snprintf(forward, size, "%s", text) < (int)size;
	return false;
}

static int configure(const char *config, char *forward, size_t size)
{
	char line[SETTING_SIZE + 64];
	FILE *file = fopen(config, "re");
	int result = 0;

	if (!file)
		return errno == ENOENT ? 0 : refuse("its configuration cannot be read");
	while (!result && fgets(line, sizeof(line), file))
		if (!take_setting(line, forward, size))
			result = refuse("its configuration has a line that is not understood");
	fclose(file);
	return result;
}

/* Loads the plugin that lies beside this one, with the configuration that it would have alone. */
static int load_other(const char *name, const char *config, unsigned int version, unsigned int flags)
{
	char path[512], folder[400];
	Dl_info self;
	void *library;
	char *slash;

	if (!dladdr((void *)load_other, &self) || !self.dli_fname)
		return refuse("it does not know where it lies");
	snprintf(folder, sizeof(folder), "%s", self.dli_fname);
	slash = strrchr(folder, '/');
	if (slash)
		*slash = 0;
	snprintf(path, sizeof(path), "%s/%s.so", slash ? folder : ".", name);
	library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	other = library ? dlsym(library, "virLockDriverImpl") : NULL;
	if (!other || other->version / 1000000 != ABI_MAJOR)
		return refuse("the plugin that it is to forward to cannot be loaded");
	snprintf(folder, sizeof(folder), "%s", config);
	slash = strrchr(folder, '/');
	if (slash)
		*slash = 0;
	snprintf(path, sizeof(path), "%s/qemu-%s.conf", slash ? folder : ".", name);
	return other->init(version, path, flags);
}

static int plugin_init(unsigned int version, const char *config, unsigned int flags)
{
	char forward[64] = "", path[PATH_SIZE];

	if (version / 1000000 != ABI_MAJOR)
		return refuse("this libvirt has another interface for lock managers");
	if (configure(config, forward, sizeof(forward)) < 0)
		return -1;
	if (*forward && !other && load_other(forward, config, version, flags) < 0)
		return -1;
	/* The service reads here that somebody will ask before guests go on. */
	mkdir(run_dir, 0755);
	if (path_of(path, sizeof(path), "", "outgoing"))
		mkdir(path, 0700);
	if (say_loaded() < 0)
		return refuse("its run_dir cannot be written");
	return 0;
}

static int plugin_deinit(void)
{
	return other ? other->deinit() : 0;
}

static void plugin_free(struct manager *manager)
{
	struct guest *guest = manager->private;

	if (!guest)
		return;
	if (other)
		other->free(&guest->other);
	free(guest);
	manager->private = NULL;
}

static int plugin_new(struct manager *manager, unsigned int type, size_t count,
		      struct parameter *parameters, unsigned int flags)
{
	struct guest *guest = calloc(1, sizeof(*guest));

	if (!guest)
		return refuse("out of memory");
	for (size_t i = 0; i < count; i++) {
		const unsigned char *uuid = parameters[i].value.uuid;
		char *to = guest->uuid;

		if (parameters[i].type != UUID_PARAMETER || strcmp(parameters[i].key, "uuid"))
			continue;
		for (int byte = 0; byte < UUID_SIZE; byte++)
			to += sprintf(to, byte == 4 || byte == 6 || byte == 8 || byte == 10 ? "-%02x" : "%02x",
				      uuid[byte]);
	}
	if (!*guest->uuid) {
		free(guest);
		return refuse("libvirt named no guest");
	}
	guest->other.driver = other;
	if (other && other->new(&guest->other, type, count, parameters, flags) < 0) {
		free(guest);
		return -1;
	}
	manager->private = guest;
	return 0;
}

static int plugin_add_resource(struct manager *manager, unsigned int type, const char *name,
			       size_t count, struct parameter *parameters, unsigned int flags)
{
	struct guest *guest = manager->private;

	return other ? other->add_resource(&guest->other, type, name, count, parameters, flags) : 0;
}

static int plugin_acquire(struct manager *manager, const char *state, unsigned int flags, int action,
			  int *fd)
{
	struct guest *guest = manager->private;

	if (other && other->acquire(&guest->other, state, flags, action, fd) < 0)
		return -1;
	/* In QEMU's own process, before it is executed: the guest does not go on yet. */
	if (flags & REGISTER_ONLY)
		return 0;
	if (!marked("incoming", guest) && !marked("outgoing", guest))
		return 0;
	if (ask(guest) == 0)
		return 0;
	if (other)
		other->release(&guest->other, NULL, 0);
	return -1;
}

static int plugin_release(struct manager *manager, char **state, unsigned int flags)
{
	struct guest *guest = manager->private;

	if (state)
		*state = NULL;
	return other ? other->release(&guest->other, state, flags) : 0;
}

static int plugin_inquire(struct manager *manager, char **state, unsigned int flags)
{
	struct guest *guest = manager->private;

	if (state)
		*state = NULL;
	/* A migration begins: before the guest goes on here again, somebody has to agree. */
	if (write_file("outgoing", guest->uuid, "") < 0 && errno != ENOENT)
		return refuse("a mark cannot be made in its run_dir");
	return other ? other->inquire(&guest->other, state, flags) : 0;
}

/* What libvirt looks for. */
struct driver virLockDriverImpl = {
	.version = ABI_VERSION,
	.init = plugin_init,
	.deinit = plugin_deinit,
	.new = plugin_new,
	.free = plugin_free,
	.add_resource = plugin_add_resource,
	.acquire = plugin_acquire,
	.release = plugin_release,
	.inquire = plugin_inquire,
};
