/* What programs of this folder's parent use of the C library; see runtime.c. */
#ifndef STDLIB_H
#define STDLIB_H
#include <stddef.h>
void* aligned_alloc(size_t alignment, size_t size);
_Noreturn void exit(int code);
long atol(const char* text);
int atoi(const char* text);
#endif
