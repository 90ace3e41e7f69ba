/* SPDX-License-Identifier: MIT */
/*
 * `cvm atomic`: allocations that may not sleep. Packet sockets listen on the loopback interface; for
 * each datagram sent the kernel gives each of them a clone, allocated with GFP_ATOMIC in softirq
 * context (packet_rcv(), net/packet/af_packet.c: skb_clone(skb, GFP_ATOMIC)). They are never read,
 * so clones and data stay. An operation sends one datagram. `bytes` is what MemAvailable fell by.
 */
#include "crew.h"
#include "options.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define MAX_LISTENERS 512
#define PORT 9 /* discard */

struct atomic {
	uint64_t datagrams, listeners, payload;
};

static void listen_to_loopback(int room)
{
	struct sockaddr_ll address = { .sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_IP),
				       .sll_ifindex = (int)if_nametoindex("lo") };
	int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);

	if (fd < 0)
		crew_fail("no packet sockets: CONFIG_PACKET is not set");
	/* Before the address: without one it hears nothing. */
	if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof(room)) ||
	    bind(fd, (struct sockaddr *)&address, sizeof(address)))
		crew_fail("cannot listen to the loopback interface");
}

static void work(struct crew *crew, unsigned int index, void *context)
{
	const struct atomic *atomic = context;
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(PORT),
				  .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	struct member *m = &crew->members[index];
	static char payload[65000];
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	for (uint64_t i = 0; i < atomic->listeners; i++)
		listen_to_loopback(0x3fffffff);
	crew_begin(crew, m, index, false);
	for (uint64_t i = 0; i < atomic->datagrams; i++) {
		uint64_t before = monotonic_ns();
		ssize_t sent = sendto(fd, payload, atomic->payload, 0, (struct sockaddr *)&to,
				      sizeof(to));

		/* Nobody receives at the port: the answer to the one before may say so. */
		if (sent < 0 && errno != ECONNREFUSED)
			crew_fail(strerror(errno));
		record(&m->recorder, before, monotonic_ns() - before);
	}
	crew_stop(m);
}

static long long available_kib(void)
{
	static char text[16384];

	read_path("/proc/meminfo", text, sizeof(text));
	return field_value(text, "MemAvailable");
}

int atomic_main(int argc, char **argv)
{
	struct atomic atomic = { .listeners = 64, .payload = 1024 };
	const struct row rows[] = {
		{ "datagrams", "datagrams to send", &atomic.datagrams, 1, 1 << 30, NULL, NULL },
		{ "listeners", "clones of each (64)", &atomic.listeners, 1, MAX_LISTENERS, NULL, NULL },
		{ "payload", "bytes of a datagram (1K)", &atomic.payload, 1, 65000, NULL, NULL },
		{ 0 },
	};
	long long before, after;
	struct crew *crew;

	if (!read_options("atomic", rows, argc, argv) || !atomic.datagrams)
		return 2;
	crew = crew_new("atomic", 1, 1);
	if (!crew)
		return crew_error("atomic", "no memory for the results");
	before = available_kib();
	if (crew_run(crew, work, &atomic))
		return 1;
	after = available_kib();
	crew->members[0].bytes = before > after ? (uint64_t)(before - after) << 10 : 0;
	printf("{\"workload\":\"atomic\",\"listeners\":%llu", (unsigned long long)atomic.listeners);
	crew_report(crew);
	crew_end();
	return 0;
}
