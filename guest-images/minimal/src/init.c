/* SPDX-License-Identifier: MIT */
/*
 * PID 1 of the minimal guest. It tells the host over a virtio-serial port when userspace begins
 * ("init"), when sshd listens ("ready") and what went wrong ("error"), one JSON object a line, and
 * takes the commands "poweroff", "reboot", "status" and "resume …" from there. docs/guest-image.md
 * has the messages.
 */
#include "guest.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#define SSH_PORT 22
#define DEADLINE_S 10 /* after which what is still missing is reported; waiting goes on */

static char *sshd_argv[] = {
	/*
	 * No path: dropbear, which cannot open a file of that name in /root, forks for a connection
	 * and leaves it at that (svr-main.c, 2022.83). Else it executes itself anew, which takes a
	 * restored guest longer than the key exchange.
	 *
	 * -e: sessions inherit our environment; no syslog runs, so errors go to the console.
	 */
	"dropbear", "-s", "-e", "-E", "-j", "-k", "-m", "-p", "22",
	"-P", "/run/dropbear.pid", "-r", "/etc/dropbear/host_key", NULL,
};
static char *shell_argv[] = { "/bin/sh", "-l", NULL };

static uint64_t start_ns, start_boottime_ns, modules_ns, port_ns, network_ns, sshd_ns;
static long long start_unaccepted = -1;
static int modules;
static pid_t sshd, shell;
static bool ready;
static char boot_id[64];

static void first_look(void)
{
	static char vmstat[16384];

	start_ns = monotonic_ns();
	start_boottime_ns = boottime_ns();
	mount("proc", "/proc", "proc", MS_NOSUID | MS_NOEXEC | MS_NODEV, NULL);
	if (read_path("/proc/vmstat", vmstat, sizeof(vmstat)) > 0)
		start_unaccepted = field_value(vmstat, "nr_unaccepted");
}

static void send_init(void)
{
	static char meminfo[8192];
	char data[1024];
	struct text t = { .data = data, .size = sizeof(data) };
	struct utsname name;

	uname(&name);
	read_path("/proc/meminfo", meminfo, sizeof(meminfo));
	read_path("/proc/sys/kernel/random/boot_id", boot_id, sizeof(boot_id));
	put(&t, "{\"event\":\"init\",\"nr_unaccepted_pages\":%lld", start_unaccepted);
	put(&t, ",\"monotonic_ns\":%llu", (unsigned long long)start_ns);
	put(&t, ",\"boottime_ns\":%llu", (unsigned long long)start_boottime_ns);
	put(&t, ",\"mem_total_kib\":%lld,\"release\":", field_value(meminfo, "MemTotal"));
	put_string(&t, name.release);
	put(&t, ",\"boot_id\":");
	put_string(&t, boot_id);
	put(&t, "}");
	send_line(&t);
}

static void send_ready(void)
{
	static char cmdline[4096];
	static char data[8192];
	struct text t = { .data = data, .size = sizeof(data) };
	uint64_t now = monotonic_ns();

	read_path("/proc/cmdline", cmdline, sizeof(cmdline));
	put(&t, "{\"event\":\"ready\",\"monotonic_ns\":%llu,\"boot_id\":", (unsigned long long)now);
	put_string(&t, boot_id);
	put(&t, ",\"port\":%d,\"modules\":%d,\"stages_ns\":{", SSH_PORT, modules);
	put(&t, "\"init\":%llu,", (unsigned long long)start_ns);
	put(&t, "\"modules\":%llu,", (unsigned long long)modules_ns);
	put(&t, "\"port\":%llu,", (unsigned long long)port_ns);
	put(&t, "\"network\":%llu,", (unsigned long long)network_ns);
	put(&t, "\"sshd\":%llu},\"cmdline\":", (unsigned long long)sshd_ns);
	put_string(&t, cmdline);
	put(&t, "}");
	send_line(&t);
}

static pid_t spawn(char **argv, const char *terminal)
{
	pid_t pid = fork();
	sigset_t none;
	int fd;

	if (pid < 0)
		report_error(argv[0], errno);
	if (pid)
		return pid;
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	setsid();
	if (terminal) {
		fd = open(terminal, O_RDWR);
		if (fd < 0)
			_exit(127);
		ioctl(fd, TIOCSCTTY, 1);
		for (int i = 0; i < 3; i++)
			dup2(fd, i);
		if (fd > 2)
			close(fd);
	}
	execvp(argv[0], argv);
	_exit(127);
}

static void start_shell(void)
{
	if (kernel_parameter("harness.shell"))
		shell = spawn(shell_argv, "/dev/ttyS0");
}

static void power(int how, const char *word)
{
	char data[64];

	snprintf(data, sizeof(data), "{\"event\":\"stopping\",\"how\":\"%s\"}", word);
	port_send(data);
	log_line(word);
	sync();
	reboot(how);
	report_error(word, errno);
}

static void command(const char *line)
{
	if (strcmp(line, "poweroff") == 0)
		power(RB_POWER_OFF, line);
	else if (strcmp(line, "reboot") == 0)
		power(RB_AUTOBOOT, line);
	else if (strncmp(line, "resume ", 7) == 0)
		resume(line + 7);
	else if (strcmp(line, "status") == 0 && ready)
		send_ready();
	else if (strcmp(line, "status") == 0)
		port_send("{\"event\":\"starting\"}");
	else
		report_error("unknown command", EINVAL);
}

static void reap(void)
{
	int status;
	pid_t pid;

	while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
		if (pid == sshd && !sshd_ns) {
			/* The parent of the daemon exits after listen() (dropbear's svr-main.c). */
			if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
				sshd_ns = monotonic_ns();
			else
				report_error("start dropbear", ECHILD);
		} else if (pid == shell && !(WIFEXITED(status) && WEXITSTATUS(status) == 127)) {
			start_shell();
		}
	}
}

/* The signals of busybox's halt, poweroff and reboot (init/halt.c). */
static void on_signal(int signals)
{
	struct signalfd_siginfo info;

	while (read(signals, &info, sizeof(info)) == (ssize_t)sizeof(info)) {
		if (info.ssi_signo == SIGCHLD)
			reap();
		else
			power(info.ssi_signo == SIGTERM ? RB_AUTOBOOT : RB_POWER_OFF,
			      info.ssi_signo == SIGTERM ? "reboot" : "poweroff");
	}
}

static void watch(int epoll, int fd)
{
	struct epoll_event event = { .events = EPOLLIN, .data.fd = fd };

	epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
}

/* Kernel events about devices: one comes for each step of a port's or interface's life. */
static int open_uevents(void)
{
	struct sockaddr_nl address = { .nl_family = AF_NETLINK, .nl_groups = 1 };
	int fd = socket(AF_NETLINK, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, NETLINK_KOBJECT_UEVENT);

	if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof(address)))
		report_error("listen to kernel events", errno);
	return fd;
}

static void drain(int fd)
{
	char event[4096];

	while (read(fd, event, sizeof(event)) > 0 || errno == ENOBUFS || errno == EINTR)
		;
}

static void look_for_devices(int epoll)
{
	if (!port_ns && port_open(epoll))
		port_ns = monotonic_ns();
	if (!network_ns && network_up())
		network_ns = monotonic_ns();
}

static void check_ready(void)
{
	if (ready || !port_ns || !network_ns || !sshd_ns)
		return;
	ready = true;
	send_ready();
	log_line("ready");
}

static void on_deadline(int timer)
{
	drain(timer);
	if (!port_ns)
		report_error("wait for the virtio port " PORT_NAME, ETIMEDOUT);
	if (!network_ns)
		report_error("wait for eth0", ETIMEDOUT);
	if (!sshd_ns)
		report_error("wait for dropbear", ETIMEDOUT);
}

static void set_environment(void)
{
	setenv("PATH", "/usr/sbin:/usr/bin:/sbin:/bin", 1);
	setenv("HOME", "/root", 1);
	setenv("USER", "root", 1);
	setenv("SHELL", "/bin/sh", 1);
	setenv("TERM", "linux", 0);
	if (chdir("/root"))
		report_error("chdir /root", errno);
	sethostname("guest", 5);
}

int init_main(int argc, char **argv)
{
	struct itimerspec deadline = { .it_value.tv_sec = DEADLINE_S };
	int epoll, signals, uevents, timer;
	sigset_t mask;

	(void)argc;
	(void)argv;
	if (getpid() != 1) {
		fprintf(stderr, "init: only as PID 1\n");
		return 2;
	}
	first_look();
	sigemptyset(&mask);
	for (size_t i = 0; i < 4; i++)
		sigaddset(&mask, (int[]){ SIGCHLD, SIGUSR1, SIGUSR2, SIGTERM }[i]);
	sigprocmask(SIG_BLOCK, &mask, NULL);
	epoll = epoll_create1(EPOLL_CLOEXEC);
	signals = signalfd(-1, &mask, SFD_CLOEXEC | SFD_NONBLOCK);
	timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	timerfd_settime(timer, 0, &deadline, NULL);
	uevents = open_uevents();
	watch(epoll, signals);
	watch(epoll, timer);
	watch(epoll, uevents);

	send_init(); /* queued: it goes out the moment the port is open */
	mount_all();
	keep_still();
	set_environment();
	seed_entropy();
	look_for_devices(epoll);
	sshd = spawn(sshd_argv, NULL);
	modules = load_modules();
	modules_ns = monotonic_ns();
	look_for_devices(epoll);
	start_shell();
	for (;;) {
		struct epoll_event event;

		check_ready();
		if (epoll_wait(epoll, &event, 1, -1) != 1)
			continue;
		if (event.data.fd == signals) {
			on_signal(signals);
		} else if (event.data.fd == timer) {
			on_deadline(timer);
		} else if (event.data.fd == uevents) {
			drain(uevents);
			look_for_devices(epoll);
		} else {
			port_event(command);
		}
	}
}
