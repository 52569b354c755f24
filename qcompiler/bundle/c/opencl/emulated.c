/* Runs the model on many samples in one process, on an OpenCL device of this machine.

     emulated MODE REPEATS KERNELS WEIGHTS INPUTS OUTPUTS ARENAS CACHE OPTIONS

   MODE is run or trace. KERNELS and WEIGHTS are kernels.cl and weights.bin. INPUTS holds the inputs of each sample one
   after the other, samples likewise, and decides how many there are. Each runs REPEATS times; then its outputs are
   appended to OUTPUTS, and if MODE is trace the arena to ARENAS. CACHE keeps the compiled program; OPTIONS are further
   ones of the OpenCL compiler. A failure of the driver ends with ten more than its code. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model.h"

static char kernels[MODEL_KERNELS_BYTES];
static _Alignas(MODEL_ALIGNMENT) uint8_t weights[MODEL_WEIGHTS_BYTES];
static _Alignas(MODEL_ALIGNMENT) uint8_t input_data[MODEL_INPUTS_BYTES];
static _Alignas(MODEL_ALIGNMENT) uint8_t output_data[MODEL_OUTPUTS_BYTES];
static _Alignas(MODEL_ALIGNMENT) uint8_t arena[MODEL_TRACE_ARENA_BYTES];

static const size_t input_offsets[] = MODEL_INPUT_OFFSETS, input_sizes[] = MODEL_INPUT_SIZES;
static const size_t output_offsets[] = MODEL_OUTPUT_OFFSETS, output_sizes[] = MODEL_OUTPUT_SIZES;

static FILE* opened(const char* path, const char* mode) {
  FILE* file = fopen(path, mode);
  if (!file) {
    fprintf(stderr, "%s: cannot be opened\n", path);
    exit(1);
  }
  return file;
}

static void read_all(const char* path, void* data, size_t bytes) {
  FILE* file = opened(path, "rb");
  if (fread(data, 1, bytes, file) != bytes) {
    fprintf(stderr, "%s: cannot be read\n", path);
    exit(1);
  }
  fclose(file);
}

static void append(FILE* file, const char* path, const void* data, size_t bytes) {
  if (fwrite(data, 1, bytes, file) == bytes) return;
  fprintf(stderr, "%s: cannot be written\n", path);
  exit(1);
}

/* The next sample; 0 at the end of the file. */
static int read_sample(FILE* file, const char* path) {
  for (int i = 0; i < MODEL_INPUTS; i++) {
    size_t found = fread(input_data + input_offsets[i], 1, input_sizes[i], file);
    if (i == 0 && found == 0 && feof(file)) return 0;
    if (found != input_sizes[i]) {
      fprintf(stderr, "%s: ends within a sample\n", path);
      exit(1);
    }
  }
  return 1;
}

static void check(int32_t status, model_instance* instance) {
  if (!status) return;
  fprintf(stderr, "%s\n", model_message(instance));
  exit(10 + status);
}

int main(int argc, char** argv) {
  if (argc != 10) return 2;
  int traced = !strcmp(argv[1], "trace");
  if (!traced && strcmp(argv[1], "run")) return 2;
  long repeats = atol(argv[2]);
  read_all(argv[3], kernels, sizeof kernels);
  read_all(argv[4], weights, sizeof weights);
  model_options options = {.kernels = kernels, .weights = weights, .trace = traced};
  options.cache = argv[8];
  options.build_options = argv[9];
  model_instance* instance;
  int32_t status = model_open(&options, &instance);
  check(status, instance);

  const void* inputs[MODEL_INPUTS];
  void* outputs[MODEL_OUTPUTS];
  for (int i = 0; i < MODEL_INPUTS; i++) inputs[i] = input_data + input_offsets[i];
  for (int i = 0; i < MODEL_OUTPUTS; i++) outputs[i] = output_data + output_offsets[i];
  FILE* samples = opened(argv[5], "rb");
  FILE* results = opened(argv[6], "wb");
  FILE* arenas = traced ? opened(argv[7], "wb") : NULL;
  while (read_sample(samples, argv[5])) {
    for (long repeat = 0; repeat < repeats; repeat++) check(model_run(instance, inputs, outputs), instance);
    if (traced) check(model_read_arena(instance, arena), instance);
    for (int i = 0; i < MODEL_OUTPUTS; i++) append(results, argv[6], outputs[i], output_sizes[i]);
    if (traced) append(arenas, argv[7], arena, sizeof arena);
  }
  model_close(instance);
  fclose(samples);
  if (fclose(results) || (arenas && fclose(arenas))) {
    fprintf(stderr, "%s: cannot be written\n", argv[6]);
    return 1;
  }
  return 0;
}
