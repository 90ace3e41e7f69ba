/* SPDX-License-Identifier: MIT */
/* What PID 1 does once: mounts, entropy, modules, network. By system calls, without a shell. */
#include "guest.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/random.h>
#include <net/if.h>
#include <net/route.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define MODULE_LIST "/etc/modules.list"
#define SEED "/etc/harness/seed"
#define DEFAULT_IP "10.0.2.15/24,10.0.2.2" /* QEMU's user network */

static const struct {
	const char *type, *where, *options;
	bool optional; /* the kernel may be built without it */
} mounts[] = {
	{ "sysfs", "/sys", NULL, false },
	{ "devpts", "/dev/pts", "mode=0620,gid=5,ptmxmode=0666", false },
	{ "tmpfs", "/dev/shm", "mode=1777", true },
	{ "tmpfs", "/tmp", "mode=1777", true },
	{ "tmpfs", "/run", "mode=0755", true },
	{ "debugfs", "/sys/kernel/debug", NULL, true },
	{ "tracefs", "/sys/kernel/tracing", NULL, true },
	{ "cgroup2", "/sys/fs/cgroup", NULL, true },
};

void mount_all(void)
{
	/* CONFIG_DEVTMPFS_MOUNT does not apply to an initramfs. */
	if (mount("devtmpfs", "/dev", "devtmpfs", 0, "mode=0755") && errno != EBUSY)
		report_error("mount /dev", errno);
	mkdir("/dev/pts", 0755);
	mkdir("/dev/shm", 0755);
	for (size_t i = 0; i < ARRAY_LEN(mounts); i++) {
		if (!mount(mounts[i].type, mounts[i].where, mounts[i].type, MS_NOSUID,
			   mounts[i].options))
			continue;
		if (!mounts[i].optional || (errno != ENODEV && errno != ENOENT)) {
			char step[64];

			snprintf(step, sizeof(step), "mount %s", mounts[i].where);
			report_error(step, errno);
		}
	}
}

void credit_entropy(const char *bytes, size_t len)
{
	struct {
		struct rand_pool_info info;
		char bytes[64];
	} seed = { 0 };
	int random = open("/dev/urandom", O_WRONLY | O_CLOEXEC);

	if (len > sizeof(seed.bytes))
		len = sizeof(seed.bytes);
	seed.info.entropy_count = (int)len * 8;
	seed.info.buf_size = (int)len;
	memcpy(seed.info.buf, bytes, len);
	/* The second makes the next random byte depend on it, rather than one in a minute. */
	if (random < 0 || ioctl(random, RNDADDENTROPY, &seed) || ioctl(random, RNDRESEEDCRNG))
		report_error("seed the random number generator", errno);
	if (random >= 0)
		close(random);
}

/* Credit the host's random bytes, so that nothing waits for the guest to gather its own. */
void seed_entropy(void)
{
	char bytes[64];
	int source = open(SEED, O_RDONLY | O_CLOEXEC);
	ssize_t len = source < 0 ? 0 : read(source, bytes, sizeof(bytes));

	if (len > 0)
		credit_entropy(bytes, (size_t)len);
	if (source >= 0)
		close(source);
	unlink(SEED);
}

int load_modules(void)
{
	FILE *list = fopen(MODULE_LIST, "re");
	int loaded = 0;
	char path[256];

	if (!list)
		return 0;
	while (fgets(path, sizeof(path), list)) {
		int fd;

		path[strcspn(path, "\n")] = '\0';
		fd = open(path, O_RDONLY | O_CLOEXEC);
		/* ENODEV: no such device here; EEXIST: built in or loaded already. */
		if (fd >= 0 && !syscall(SYS_finit_module, fd, "", 0))
			loaded++;
		else if (errno != ENODEV && errno != EEXIST)
			report_error(path, errno);
		if (fd >= 0)
			close(fd);
	}
	fclose(list);
	return loaded;
}

const char *kernel_parameter(const char *name)
{
	static char line[4096];
	static char words[4096];
	size_t len = strlen(name);
	char *rest = words;
	char *word;

	if (!line[0])
		read_path("/proc/cmdline", line, sizeof(line));
	memcpy(words, line, sizeof(words));
	while ((word = strsep(&rest, " \n"))) {
		if (strncmp(word, name, len))
			continue;
		if (word[len] == '=')
			return word + len + 1;
		if (!word[len])
			return word + len;
	}
	return NULL;
}

static struct sockaddr *ipv4(struct sockaddr *where, struct in_addr address)
{
	struct sockaddr_in in = { .sin_family = AF_INET, .sin_addr = address };

	memcpy(where, &in, sizeof(in));
	return where;
}

/* Give an interface its address and bring it up. Returns the ioctl that failed, or NULL. */
static const char *configure(int sock, const char *name, struct in_addr address, int prefix)
{
	struct in_addr mask = { .s_addr = htonl(prefix ? ~0U << (32 - prefix) : 0) };
	struct ifreq request = { 0 };

	strncpy(request.ifr_name, name, IFNAMSIZ - 1);
	ipv4(&request.ifr_addr, address);
	if (ioctl(sock, SIOCSIFADDR, &request))
		return "set the address";
	ipv4(&request.ifr_netmask, mask);
	if (ioctl(sock, SIOCSIFNETMASK, &request))
		return "set the netmask";
	if (ioctl(sock, SIOCGIFFLAGS, &request))
		return "get the flags";
	request.ifr_flags |= IFF_UP;
	if (ioctl(sock, SIOCSIFFLAGS, &request))
		return "bring up";
	return NULL;
}

static const char *default_route(int sock, struct in_addr gateway)
{
	struct rtentry route = { .rt_flags = RTF_UP | RTF_GATEWAY };
	struct in_addr any = { 0 };

	ipv4(&route.rt_dst, any);
	ipv4(&route.rt_genmask, any);
	ipv4(&route.rt_gateway, gateway);
	return ioctl(sock, SIOCADDRT, &route) && errno != EEXIST ? "add the route" : NULL;
}

/* Split "ADDRESS[/PREFIX][,GATEWAY]". Returns whether it makes sense. */
static bool parse_ip(const char *text, struct in_addr *address, int *prefix, struct in_addr *gateway)
{
	char copy[64];
	char *comma, *slash;

	snprintf(copy, sizeof(copy), "%s", text);
	gateway->s_addr = 0;
	*prefix = 24;
	if ((comma = strchr(copy, ','))) {
		*comma = '\0';
		if (!inet_aton(comma + 1, gateway))
			return false;
	}
	if ((slash = strchr(copy, '/'))) {
		*slash = '\0';
		*prefix = atoi(slash + 1);
	}
	return *prefix >= 0 && *prefix <= 32 && inet_aton(copy, address);
}

bool network_up(void)
{
	static bool loopback;
	const char *text = kernel_parameter("harness.ip");
	struct in_addr address, gateway;
	const char *failed = NULL;
	int prefix, sock;

	if (!text)
		text = DEFAULT_IP;
	if (!parse_ip(text, &address, &prefix, &gateway)) {
		report_error("parse harness.ip", EINVAL);
		return true;
	}
	sock = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (sock < 0) {
		report_error("network socket", errno);
		return true;
	}
	if (!loopback) {
		struct in_addr local = { .s_addr = htonl(INADDR_LOOPBACK) };

		failed = configure(sock, "lo", local, 8);
		if (failed)
			report_error("network lo", errno);
		loopback = true;
	}
	failed = configure(sock, "eth0", address, prefix);
	if (failed && errno == ENODEV) {
		close(sock);
		return false;
	}
	if (!failed && gateway.s_addr)
		failed = default_route(sock, gateway);
	if (failed) {
		char step[64];

		snprintf(step, sizeof(step), "network eth0: %s", failed);
		report_error(step, errno);
	}
	close(sock);
	return true;
}
