/* The emulator's control registers c20, c21, c22: packets, instructions and HVX instructions so far. */
#ifndef COUNTERS_H
#define COUNTERS_H
#include <stdint.h>

enum { COUNTERS = 3 };

/* Words, since the assembler does not know these registers: r0 = c20, c21, c22. */
static inline void read_counters(uint32_t counters[COUNTERS]) {
  register uint32_t r0 __asm__("r0");
  __asm__ volatile(".word 0x6a14c000" : "=r"(r0)::"memory");
  counters[0] = r0;
  __asm__ volatile(".word 0x6a15c000" : "=r"(r0)::"memory");
  counters[1] = r0;
  __asm__ volatile(".word 0x6a16c000" : "=r"(r0)::"memory");
  counters[2] = r0;
}
#endif
