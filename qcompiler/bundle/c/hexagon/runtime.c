/* In place of a C library, for static programs under qemu-hexagon: start, files, memory, text.

   System calls are those of Linux for its newer architectures (asm-generic/unistd.h): arguments in r0 to r3, number
   in r6, then trap0(#1). */

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OPENAT = 56, CLOSE = 57, READ = 63, WRITE = 64, EXIT_GROUP = 94, HERE = -100 };
enum { CREATE = 0x40, TRUNCATE = 0x200, WRITE_ONLY = 1, PERMISSIONS = 0644 };
enum { FILES = 8, HEAP = 64 << 20, LARGEST_CALL = 1 << 30 };

static long call(long number, long a, long b, long c, long d) {
  register long r0 __asm__("r0") = a, r1 __asm__("r1") = b, r2 __asm__("r2") = c, r3 __asm__("r3") = d;
  register long r6 __asm__("r6") = number;
  __asm__ volatile("trap0(#1)" : "+r"(r0) : "r"(r1), "r"(r2), "r"(r3), "r"(r6) : "memory");
  return r0;
}

int main(int argc, char** argv);

void start(long* stack) { exit(main((int)stack[0], (char**)(stack + 1))); }

__asm__(
    ".globl _start\n"
    "_start:\n"
    "  { r0 = r29\n"
    "    r29 = and(r29, #-256) }\n"
    "  { call start }\n");

void exit(int code) {
  for (;;) call(EXIT_GROUP, code, 0, 0, 0);
}

/* ------------------------------------------------------------------------------------------------ memory */

void* aligned_alloc(size_t alignment, size_t size) {
  static _Alignas(4096) uint8_t heap[HEAP];
  static size_t used;
  size_t start = (used + alignment - 1) & -alignment;
  if (alignment > 4096 || size > HEAP || start > HEAP - size) return NULL;
  used = start + size;
  return heap + start;
}

typedef uint64_t __attribute__((may_alias)) Word;

static int aligned(const void* address) { return (uintptr_t)address % sizeof(Word) == 0; }

/* Empty assembly keeps the compiler from calling these functions in place of their own loops. */
#define KEEP __asm__ volatile("" ::: "memory")

void* memmove(void* target, const void* source, size_t bytes) {
  uint8_t* to = target;
  const uint8_t* from = source;
  if (to > from) {
    for (size_t i = bytes; i-- > 0;) {
      to[i] = from[i];
      KEEP;
    }
    return target;
  }
  size_t i = 0;
  if (aligned(to) && aligned(from)) {
    for (; i + sizeof(Word) <= bytes; i += sizeof(Word)) {
      *(Word*)(to + i) = *(const Word*)(from + i);
      KEEP;
    }
  }
  for (; i < bytes; i++) {
    to[i] = from[i];
    KEEP;
  }
  return target;
}

void* memcpy(void* restrict target, const void* restrict source, size_t bytes) {
  return memmove(target, source, bytes);
}

void* __hexagon_memcpy_likely_aligned_min32bytes_mult8bytes(void* target, const void* source, size_t bytes) {
  return memmove(target, source, bytes);
}

void* memset(void* target, int value, size_t bytes) {
  uint8_t* to = target;
  uint8_t* end = to + bytes;
  const Word word = (uint8_t)value * 0x0101010101010101ull;
  while (to < end && !aligned(to)) *(volatile uint8_t*)to++ = (uint8_t)value;
  for (; (size_t)(end - to) >= 4 * sizeof(Word); to += 4 * sizeof(Word)) {
    for (int i = 0; i < 4; i++) ((Word*)to)[i] = word;
    KEEP;
  }
  while (to < end) *(volatile uint8_t*)to++ = (uint8_t)value;
  return target;
}

/* ------------------------------------------------------------------------------------------------- files */

static FILE standard_error = {2, 0};
FILE* const stderr = &standard_error;

FILE* fopen(const char* path, const char* mode) {
  static FILE files[FILES];
  static int opened;
  long flags = mode[0] == 'w' ? WRITE_ONLY | CREATE | TRUNCATE : 0;
  long descriptor = opened < FILES ? call(OPENAT, HERE, (long)path, flags, PERMISSIONS) : -1;
  if (descriptor < 0) return NULL;
  files[opened] = (FILE){(int)descriptor, 0};
  return &files[opened++];
}

int fclose(FILE* file) { return call(CLOSE, file->descriptor, 0, 0, 0) < 0 ? EOF : 0; }

/* Reads or writes until all is done, the file ends, or it fails. */
static size_t transfer(long number, FILE* file, const void* data, size_t bytes) {
  size_t done = 0;
  while (done < bytes) {
    size_t rest = bytes - done < LARGEST_CALL ? bytes - done : LARGEST_CALL;
    long moved = call(number, file->descriptor, (long)data + (long)done, (long)rest, 0);
    if (moved <= 0) {
      file->ended = moved == 0;
      break;
    }
    done += (size_t)moved;
  }
  return done;
}

size_t fread(void* data, size_t size, size_t count, FILE* file) {
  return size ? transfer(READ, file, data, size * count) / size : 0;
}

size_t fwrite(const void* data, size_t size, size_t count, FILE* file) {
  return size ? transfer(WRITE, file, data, size * count) / size : 0;
}

int fgetc(FILE* file) {
  uint8_t byte;
  return fread(&byte, 1, 1, file) == 1 ? byte : EOF;
}

int feof(FILE* file) { return file->ended; }

/* -------------------------------------------------------------------------------------------------- text */

int strcmp(const char* a, const char* b) {
  while (*a && *a == *b) a++, b++;
  return (uint8_t)*a - (uint8_t)*b;
}

size_t strlen(const char* text) {
  size_t length = 0;
  while (text[length]) length++;
  return length;
}

long atol(const char* text) {
  long value = 0, negative = *text == '-';
  for (text += negative; *text >= '0' && *text <= '9'; text++) value = value * 10 + (*text - '0');
  return negative ? -value : value;
}

int atoi(const char* text) { return (int)atol(text); }

int fprintf(FILE* file, const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  for (; *format; format++) {
    char digits[12];
    const char* piece = format;
    size_t length = 1;
    if (*format == '%') {
      if (*++format == 'z') format++;
      if (*format == 's') {
        piece = va_arg(arguments, const char*);
        length = strlen(piece);
      } else {
        unsigned value = va_arg(arguments, unsigned);
        int negative = *format == 'd' && (int)value < 0;
        char* digit = digits + sizeof digits;
        if (negative) value = -value;
        do *--digit = (char)('0' + value % 10);
        while (value /= 10);
        if (negative) *--digit = '-';
        piece = digit;
        length = (size_t)(digits + sizeof digits - digit);
      }
    }
    fwrite(piece, 1, length, file);
  }
  va_end(arguments);
  return 0;
}
