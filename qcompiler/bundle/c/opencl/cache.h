/* The compiled program in a file: a header, and what the driver gave. */
#ifndef MODEL_CACHE_H
#define MODEL_CACHE_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static uint64_t hash(uint64_t state, const void* data, size_t bytes) { /* FNV-1a */
  for (size_t i = 0; i < bytes; i++) state = (state ^ ((const unsigned char*)data)[i]) * 0x100000001B3u;
  return state;
}

#define HASH_START 0xCBF29CE484222325u

struct cache_header {
  char format[8];
  uint64_t key, bytes, check;
};
static const char CACHE_FORMAT[8] = "QCLPROG";

/* The compiled program of a file, allocated; NULL if it holds none, or one of other kernels or another driver. */
static unsigned char* read_cache(const char* path, uint64_t key, size_t* bytes) {
  struct cache_header header;
  unsigned char* data = NULL;
  FILE* file = fopen(path, "rb");
  if (!file) return NULL;
  if (fread(&header, sizeof header, 1, file) == 1 && !memcmp(header.format, CACHE_FORMAT, sizeof header.format) &&
      header.key == key && !fseek(file, 0, SEEK_END) && ftell(file) > 0 &&
      (uint64_t)ftell(file) == sizeof header + header.bytes && !fseek(file, sizeof header, SEEK_SET) &&
      (data = malloc((size_t)header.bytes + 1))) {
    *bytes = (size_t)header.bytes;
    if (fread(data, 1, *bytes, file) != *bytes || hash(HASH_START, data, *bytes) != header.check) {
      free(data);
      data = NULL;
    }
  }
  fclose(file);
  return data;
}

/* Whether the file was written; it takes its place as a whole. */
static int write_cache(const char* path, uint64_t key, const unsigned char* data, size_t bytes) {
  struct cache_header header = {{0}, key, bytes, hash(HASH_START, data, bytes)};
  memcpy(header.format, CACHE_FORMAT, sizeof header.format);
  size_t length = strlen(path) + 32;
  char* temporary = malloc(length);
  if (!temporary) return 0;
  snprintf(temporary, length, "%s.%ld", path, (long)getpid());
  FILE* file = fopen(temporary, "wb");
  int written = file && fwrite(&header, sizeof header, 1, file) == 1 && fwrite(data, 1, bytes, file) == bytes;
  if (file && fclose(file)) written = 0;
  if (written) written = !rename(temporary, path);
  if (file && !written) remove(temporary);
  free(temporary);
  return written;
}

#endif
