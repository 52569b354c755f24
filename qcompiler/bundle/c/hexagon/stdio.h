/* What programs of this folder's parent use of the C library; see runtime.c. */
#ifndef STDIO_H
#define STDIO_H
#include <stddef.h>
#define EOF (-1)
typedef struct {
  int descriptor, ended;
} FILE;
extern FILE* const stderr;
FILE* fopen(const char* path, const char* mode);
int fclose(FILE* file);
size_t fread(void* data, size_t size, size_t count, FILE* file);
size_t fwrite(const void* data, size_t size, size_t count, FILE* file);
int fgetc(FILE* file);
int feof(FILE* file);
int fprintf(FILE* file, const char* format, ...); /* %s, %d, %u and %zu alone */
#endif
