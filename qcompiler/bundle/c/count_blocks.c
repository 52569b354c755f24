/* A plug-in of QEMU's user-mode emulation: how often each translated block of guest code ran.

     qemu-ARCH -plugin count_blocks.so,out=FILE PROGRAM ...

   At the end FILE has a line "ADDRESS INSTRUCTIONS EXECUTIONS" for each block, the address in hexadecimal. The
   interface used is version 1 of QEMU's plug-in API (QEMU 6 and 7), declared here as far as needed.

   SPDX-License-Identifier: GPL-2.0-or-later */

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPORTED __attribute__((visibility("default")))

typedef uint64_t qemu_plugin_id_t;
typedef struct qemu_info_t qemu_info_t;
struct qemu_plugin_tb;
enum { ADD_U64 };

void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t id,
                                           void (*callback)(qemu_plugin_id_t id, struct qemu_plugin_tb* tb));
void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb* tb, int op, void* counter, uint64_t value);
void qemu_plugin_register_atexit_cb(qemu_plugin_id_t id, void (*callback)(qemu_plugin_id_t id, void* data), void* data);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb* tb);
uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb* tb);

EXPORTED int qemu_plugin_version = 1;

struct block {
  uint64_t address, instructions, executions;
  struct block* before;
};

static struct block* last;
static FILE* out;

static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb* tb) {
  (void)id;
  struct block* block = calloc(1, sizeof *block);
  if (!block) abort();
  block->address = qemu_plugin_tb_vaddr(tb);
  block->instructions = qemu_plugin_tb_n_insns(tb);
  block->before = last;
  last = block;
  qemu_plugin_register_vcpu_tb_exec_inline(tb, ADD_U64, &block->executions, 1);
}

static void finished(qemu_plugin_id_t id, void* data) {
  (void)id, (void)data;
  for (struct block* block = last; block; block = block->before)
    if (block->executions)
      fprintf(out, "%llx %llu %llu\n", (unsigned long long)block->address, (unsigned long long)block->instructions,
              (unsigned long long)block->executions);
  if (fclose(out)) abort();
}

EXPORTED int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t* info, int count, char** arguments) {
  (void)info;
  for (int i = 0; i < count; i++)
    if (!strncmp(arguments[i], "out=", 4)) out = fopen(arguments[i] + 4, "w");
  if (!out) return 1;
  qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
  qemu_plugin_register_atexit_cb(id, finished, NULL);
  return 0;
}
