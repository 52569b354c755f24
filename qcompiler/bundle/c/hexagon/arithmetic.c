/* Functions that LLVM calls on Hexagon where there is no instruction, under the names of the compiler's own library.
   Division of float32 rounds to nearest even, as IEEE 754 asks. */

#include <stdint.h>

static uint64_t divided(uint64_t dividend, uint64_t divisor, uint64_t* remainder) {
  uint64_t quotient = 0, rest = 0;
  for (int bit = 63; bit >= 0; bit--) {
    rest = rest << 1 | (dividend >> bit & 1);
    quotient <<= 1;
    if (rest >= divisor) {
      rest -= divisor;
      quotient |= 1;
    }
  }
  *remainder = rest;
  return quotient;
}

static uint64_t magnitude(int64_t value) { return value < 0 ? -(uint64_t)value : (uint64_t)value; }

int64_t __hexagon_divdi3(int64_t a, int64_t b) {
  uint64_t rest, quotient = divided(magnitude(a), magnitude(b), &rest);
  return (int64_t)((a ^ b) < 0 ? -quotient : quotient);
}

int64_t __hexagon_moddi3(int64_t a, int64_t b) {
  uint64_t rest;
  divided(magnitude(a), magnitude(b), &rest);
  return (int64_t)(a < 0 ? -rest : rest);
}

uint64_t __hexagon_udivdi3(uint64_t a, uint64_t b) {
  uint64_t rest;
  return divided(a, b, &rest);
}

uint64_t __hexagon_umoddi3(uint64_t a, uint64_t b) {
  uint64_t rest;
  divided(a, b, &rest);
  return rest;
}

int32_t __hexagon_divsi3(int32_t a, int32_t b) { return (int32_t)__hexagon_divdi3(a, b); }
int32_t __hexagon_modsi3(int32_t a, int32_t b) { return (int32_t)__hexagon_moddi3(a, b); }
uint32_t __hexagon_udivsi3(uint32_t a, uint32_t b) { return (uint32_t)__hexagon_udivdi3(a, b); }
uint32_t __hexagon_umodsi3(uint32_t a, uint32_t b) { return (uint32_t)__hexagon_umoddi3(a, b); }
