/* Functions that LLVM calls on Hexagon where there is no instruction, under the names of the compiler's own library.
   Division of floats rounds to nearest even, as IEEE 754 asks. */

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

enum { FRACTION = 52, BIAS = 1023, LARGEST = 2047 };

static const uint64_t ONE = (uint64_t)1 << FRACTION, SIGN = (uint64_t)1 << 63;
static const uint64_t INFINITE = (uint64_t)LARGEST << FRACTION, QUIET = (uint64_t)1 << (FRACTION - 1);

/* The fraction with its leading bit, and the exponent, of the bits of a number that is neither 0 nor infinite. */
static uint64_t unpacked(uint64_t bits, int* exponent) {
  uint64_t fraction = bits & (ONE - 1);
  *exponent = (int)(bits >> FRACTION & LARGEST);
  if (*exponent) return fraction | ONE;
  for (*exponent = 1; fraction < ONE; fraction <<= 1) --*exponent;
  return fraction;
}

static uint64_t quotient_bits(uint64_t a, uint64_t b) {
  uint64_t sign = (a ^ b) & SIGN, quotient = 0;
  int exponent, divisor_exponent;
  a &= ~SIGN;
  b &= ~SIGN;
  if (a > INFINITE || b > INFINITE || (a == INFINITE && b == INFINITE) || (!a && !b)) return INFINITE | QUIET;
  if (a == INFINITE || !b) return sign | INFINITE;
  if (!a || b == INFINITE) return sign;
  uint64_t rest = unpacked(a, &exponent), divisor = unpacked(b, &divisor_exponent);
  exponent += BIAS - divisor_exponent;
  if (rest < divisor) {
    rest <<= 1;
    exponent--;
  }
  /* The leading bit, those of the fraction, two more, and whether anything remains. */
  for (int bit = 0; bit < FRACTION + 3; bit++, rest <<= 1) {
    quotient <<= 1;
    if (rest >= divisor) {
      rest -= divisor;
      quotient |= 1;
    }
  }
  quotient = quotient << 1 | (rest != 0);
  for (; exponent < 1 && quotient > 1; exponent++) quotient = quotient >> 1 | (quotient & 1);
  if (exponent < 1) exponent = 1;
  uint64_t lost = quotient & 7, kept = quotient >> 3;
  kept += lost > 4 || (lost == 4 && (kept & 1));
  if (kept >= 2 * ONE) {
    kept >>= 1;
    exponent++;
  }
  if (exponent >= LARGEST) return sign | INFINITE;
  return sign | (kept < ONE ? kept : ((uint64_t)exponent << FRACTION) + (kept - ONE));
}

double __hexagon_divdf3(double a, double b) {
  union {
    double value;
    uint64_t bits;
  } left = {a}, right = {b}, result = {.bits = quotient_bits(left.bits, right.bits)};
  return result.value;
}

/* A float64 has more than twice the digits, so that rounding twice changes nothing for normal results. */
float __hexagon_divsf3(float a, float b) { return (float)__hexagon_divdf3(a, b); }

float floorf(float x) {
  if (!(x < 0x1p23f && x > -0x1p23f) || x == 0.0f) return x;
  float whole = (float)(int32_t)x;
  return whole > x ? whole - 1.0f : whole;
}

/* Rounded to nearest; the root of a float is never halfway between two. */
float __hexagon_sqrtf(float x) {
  union { float value; uint32_t bits; } word = {x};
  if (x == 0.0f || word.bits == 0x7f800000u || x != x) return x;
  if (x < 0.0f) return (x - x) / (x - x);
  int exponent = (int)(word.bits >> 23) - 127;
  uint64_t square = word.bits & 0x7fffffu;
  if (exponent == -127) {
    exponent++;
    for (; square < 1u << 23; exponent--) square <<= 1;
  } else {
    square |= 1u << 23;
  }
  if (exponent & 1) {
    square <<= 1;
    exponent--;
  }
  square <<= 25;
  uint64_t root = 0; /* its lowest bit is half a unit */
  for (uint64_t bit = 1u << 24; bit; bit >>= 1)
    if ((root | bit) * (root | bit) <= square) root |= bit;
  word.bits = ((uint32_t)(exponent / 2 + 127) << 23) + (uint32_t)((root + 1) >> 1) - (1u << 23);
  return word.value;
}

float sqrtf(float x) { return __hexagon_sqrtf(x); }
