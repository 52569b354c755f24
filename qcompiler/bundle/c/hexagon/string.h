/* What programs of this folder's parent use of the C library; see runtime.c. */
#ifndef STRING_H
#define STRING_H
#include <stddef.h>
void* memcpy(void* restrict target, const void* restrict source, size_t bytes);
void* memmove(void* target, const void* source, size_t bytes);
void* memset(void* target, int value, size_t bytes);
int strcmp(const char* a, const char* b);
size_t strlen(const char* text);
#endif
