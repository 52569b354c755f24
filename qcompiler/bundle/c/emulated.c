/* Runs the model on many samples in one process, under an emulator.

     emulated MODE REPEATS WEIGHTS INPUTS OUTPUTS ARENAS THREADS

   MODE is run, trace or step (run, one call for each step). INPUTS holds the inputs of each sample one after the
   other, samples likewise, and decides how many there are. Each runs REPEATS times; then its outputs are
   appended to OUTPUTS, and if MODE is trace the arena to ARENAS. MODE count is step for an emulator with counters: what
   each step adds to them is appended to ARENAS, in numbers of 32 bits; last what a step that does nothing adds. WEIGHTS is not opened where the weights are
   linked in; THREADS share the work of run and step if the model was compiled for it. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model.h"

#if __has_include("counters.h")
#include "counters.h"
#endif

#if !MODEL_WEIGHTS_EMBEDDED
static _Alignas(MODEL_ALIGNMENT) uint8_t model_weights[MODEL_WEIGHTS_BYTES];
#endif
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

static void append(FILE* file, const char* path, const void* data, size_t bytes) {
  if (fwrite(data, 1, bytes, file) == bytes) return;
  fprintf(stderr, "%s: cannot be written\n", path);
  exit(1);
}

#if __has_include("counters.h")
static void count_steps(const void* const* inputs, void* const* outputs, FILE* file, const char* path) {
  for (int32_t step = 0; step <= MODEL_STEPS; step++) {
    uint32_t before[COUNTERS], after[COUNTERS];
    read_counters(before);
    model_step(inputs, outputs, model_weights, arena, step);
    read_counters(after);
    for (int i = 0; i < COUNTERS; i++) after[i] -= before[i];
    append(file, path, after, sizeof after);
  }
}
#endif

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

int main(int argc, char** argv) {
  if (argc != 8) return 2;
  int traced = !strcmp(argv[1], "trace"), stepped = !strcmp(argv[1], "step");
#if __has_include("counters.h")
  int counted = !strcmp(argv[1], "count");
#else
  int counted = 0;
#endif
  if (!traced && !stepped && !counted && strcmp(argv[1], "run")) return 2;
  long repeats = atol(argv[2]);
#if MODEL_THREADS
  model_set_threads(atoi(argv[7]));
#endif
#if !MODEL_WEIGHTS_EMBEDDED
  FILE* weights = opened(argv[3], "rb");
  if (fread(model_weights, 1, MODEL_WEIGHTS_BYTES, weights) != MODEL_WEIGHTS_BYTES) {
    fprintf(stderr, "%s: cannot be read\n", argv[3]);
    return 1;
  }
  fclose(weights);
#endif
  const void* inputs[MODEL_INPUTS];
  void* outputs[MODEL_OUTPUTS];
  for (int i = 0; i < MODEL_INPUTS; i++) inputs[i] = input_data + input_offsets[i];
  for (int i = 0; i < MODEL_OUTPUTS; i++) outputs[i] = output_data + output_offsets[i];

  FILE* samples = opened(argv[4], "rb");
  FILE* results = opened(argv[5], "wb");
  FILE* arenas = traced || counted ? opened(argv[6], "wb") : NULL;
  while (read_sample(samples, argv[4])) {
    for (long repeat = 0; repeat < repeats; repeat++) {
      if (traced) {
        model_trace(inputs, outputs, model_weights, arena);
#if __has_include("counters.h")
      } else if (counted) {
        count_steps(inputs, outputs, arenas, argv[6]);
#endif
      } else if (stepped) {
        for (int32_t step = 0; step < MODEL_STEPS; step++) model_step(inputs, outputs, model_weights, arena, step);
      } else {
        model_run(inputs, outputs, model_weights, arena);
      }
    }
    for (int i = 0; i < MODEL_OUTPUTS; i++) append(results, argv[5], outputs[i], output_sizes[i]);
    if (traced) append(arenas, argv[6], arena, MODEL_TRACE_ARENA_BYTES);
  }
  fclose(samples);
  if (fclose(results) || (arenas && fclose(arenas))) {
    fprintf(stderr, "%s: cannot be written\n", argv[5]);
    return 1;
  }
  return 0;
}
