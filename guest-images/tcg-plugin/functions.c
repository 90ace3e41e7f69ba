/* SPDX-License-Identifier: MIT */
/*
 * A plugin for QEMU's TCG that counts how often each block of guest code runs between two marks, and
 * says so on stderr: a line "@functions BLOCKS", then "@ADDRESS INSTRUCTIONS" for each block, then
 * "@end". A mark is a no-operation that the guest's workers execute (guest-images/minimal/src/crew.c).
 *
 * Written against the API that docs/devel/tcg-plugins.rst describes; what it uses of that is
 * declared here, because distributions do not ship the header. API_VERSION is 1 for QEMU before 9.0,
 * then 2, 3 from 9.1 on, where qemu_plugin_insn_data() copies, and 7 from 11.1 on, where callbacks
 * have data of the caller.
 */
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPORTED __attribute__((visibility("default")))

typedef uint64_t plugin_id;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
#if API_VERSION < 7
typedef void tb_trans_cb(plugin_id id, struct qemu_plugin_tb *tb);
#else
typedef void tb_trans_cb(struct qemu_plugin_tb *tb, void *data);
#endif
typedef void exec_cb(unsigned int vcpu, void *data);
enum { NO_REGS = 0 };

#if API_VERSION < 7
void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id id, tb_trans_cb *cb);
#else
void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id id, tb_trans_cb *cb, void *data);
#endif
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *tb, exec_cb *cb, int regs,
					  void *data);
void qemu_plugin_register_vcpu_insn_exec_cb(struct qemu_plugin_insn *insn, exec_cb *cb, int regs,
					    void *data);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *tb);
uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb *tb);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *tb, size_t index);
size_t qemu_plugin_insn_size(const struct qemu_plugin_insn *insn);
#if API_VERSION < 3
const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *insn);
#else
size_t qemu_plugin_insn_data(const struct qemu_plugin_insn *insn, void *to, size_t size);
#endif

EXPORTED int qemu_plugin_version = API_VERSION;

/* nopl disp32(%rax): the last four bytes tell the marks apart. */
#define MARK_BYTES 7
static const unsigned char mark_begin[MARK_BYTES] = { 0x0f, 0x1f, 0x80, 'B', 'C', 'V', 'M' };
static const unsigned char mark_end[MARK_BYTES] = { 0x0f, 0x1f, 0x80, 'E', 'C', 'V', 'M' };

struct block {
	uint64_t address, instructions, runs;
	struct block *next;
};

/* Under the icount clock one thread runs all vCPUs in turn: nothing here needs a lock. */
static struct block *blocks;
static unsigned int counting; /* workers between their marks */

static void on_block(unsigned int vcpu, void *data)
{
	struct block *block = data;

	(void)vcpu;
	if (counting)
		block->runs++;
}

static void on_begin(unsigned int vcpu, void *data)
{
	(void)vcpu;
	(void)data;
	counting++;
}

static void on_end(unsigned int vcpu, void *data)
{
	unsigned int used = 0;

	(void)vcpu;
	(void)data;
	if (!counting || --counting)
		return;
	for (const struct block *b = blocks; b; b = b->next)
		used += b->runs != 0;
	fprintf(stderr, "@functions %u\n", used);
	for (const struct block *b = blocks; b; b = b->next) {
		if (b->runs)
			fprintf(stderr, "@%" PRIx64 " %" PRIu64 "\n", b->address,
				b->instructions * b->runs);
	}
	fputs("@end\n", stderr);
	fflush(stderr);
}

static bool is(const struct qemu_plugin_insn *insn, const unsigned char *mark)
{
#if API_VERSION < 3
	return !memcmp(qemu_plugin_insn_data(insn), mark, MARK_BYTES);
#else
	unsigned char bytes[MARK_BYTES];

	return qemu_plugin_insn_data(insn, bytes, sizeof(bytes)) == sizeof(bytes) &&
	       !memcmp(bytes, mark, MARK_BYTES);
#endif
}

static void instrument(struct qemu_plugin_tb *tb)
{
	struct block *block = calloc(1, sizeof(*block));
	size_t count = qemu_plugin_tb_n_insns(tb);

	if (!block)
		abort(); /* a count without some blocks would be wrong without a sign of it */
	block->address = qemu_plugin_tb_vaddr(tb);
	block->instructions = count;
	block->next = blocks;
	blocks = block;
	qemu_plugin_register_vcpu_tb_exec_cb(tb, on_block, NO_REGS, block);
	for (size_t i = 0; i < count; i++) {
		struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(tb, i);

		if (qemu_plugin_insn_size(insn) != MARK_BYTES)
			continue;
		if (is(insn, mark_begin))
			qemu_plugin_register_vcpu_insn_exec_cb(insn, on_begin, NO_REGS, NULL);
		else if (is(insn, mark_end))
			qemu_plugin_register_vcpu_insn_exec_cb(insn, on_end, NO_REGS, NULL);
	}
}

#if API_VERSION < 7
static void on_translation(plugin_id id, struct qemu_plugin_tb *tb)
{
	(void)id;
	instrument(tb);
}
#else
static void on_translation(struct qemu_plugin_tb *tb, void *data)
{
	(void)data;
	instrument(tb);
}
#endif

EXPORTED int qemu_plugin_install(plugin_id id, const void *info, int argc, char **argv)
{
	(void)info;
	(void)argc;
	(void)argv;
#if API_VERSION < 7
	qemu_plugin_register_vcpu_tb_trans_cb(id, on_translation);
#else
	qemu_plugin_register_vcpu_tb_trans_cb(id, on_translation, NULL);
#endif
	return 0;
}
