/* Files of samples, for the programs that run a model on many: the inputs of each one after the other, samples likewise.
   Whatever fails ends the program with a message and code 1. */

#ifndef MODEL_SAMPLES_H
#define MODEL_SAMPLES_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "model.h"

static _Alignas(MODEL_ALIGNMENT) uint8_t input_data[MODEL_INPUTS_BYTES];
static _Alignas(MODEL_ALIGNMENT) uint8_t output_data[MODEL_OUTPUTS_BYTES];
static const void* inputs[MODEL_INPUTS];
static void* outputs[MODEL_OUTPUTS];

static const size_t input_offsets[] = MODEL_INPUT_OFFSETS, input_sizes[] = MODEL_INPUT_SIZES;
static const size_t output_offsets[] = MODEL_OUTPUT_OFFSETS, output_sizes[] = MODEL_OUTPUT_SIZES;

static _Noreturn void fail(const char* path, const char* reason) {
  fprintf(stderr, "%s: %s\n", path, reason);
  exit(1);
}

static FILE* opened(const char* path, const char* mode) {
  FILE* file = fopen(path, mode);
  if (!file) fail(path, "cannot be opened");
  return file;
}

static inline void read_all(const char* path, void* data, size_t bytes) {
  FILE* file = opened(path, "rb");
  if (fread(data, 1, bytes, file) != bytes) fail(path, "cannot be read");
  fclose(file);
}

static void append(FILE* file, const char* path, const void* data, size_t bytes) {
  if (fwrite(data, 1, bytes, file) != bytes) fail(path, "cannot be written");
}

static void append_outputs(FILE* file, const char* path) {
  for (int i = 0; i < MODEL_OUTPUTS; i++) append(file, path, outputs[i], output_sizes[i]);
}

static void close_written(FILE* file, const char* path) {
  if (file && fclose(file)) fail(path, "cannot be written");
}

/* Points `inputs` and `outputs` at the data of one sample. */
static void point_at_data(void) {
  for (int i = 0; i < MODEL_INPUTS; i++) inputs[i] = input_data + input_offsets[i];
  for (int i = 0; i < MODEL_OUTPUTS; i++) outputs[i] = output_data + output_offsets[i];
}

/* The next sample; 0 at the end of the file. */
static int read_sample(FILE* file, const char* path) {
  for (int i = 0; i < MODEL_INPUTS; i++) {
    size_t found = fread(input_data + input_offsets[i], 1, input_sizes[i], file);
    if (i == 0 && found == 0 && feof(file)) return 0;
    if (found != input_sizes[i]) fail(path, "ends within a sample");
  }
  return 1;
}

#endif
