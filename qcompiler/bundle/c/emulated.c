/* Runs the model on many samples in one process, under an emulator.

     emulated MODE REPEATS WEIGHTS INPUTS OUTPUTS ARENAS THREADS

   MODE is run, trace or step (run, one call for each step). INPUTS holds the inputs of each sample one after the
   other, samples likewise, and decides how many there are. Each runs REPEATS times; then its outputs are
   appended to OUTPUTS, and if MODE is trace the arena to ARENAS. MODE count is step for an emulator with counters:
   what each step adds to them is appended to ARENAS, in numbers of 32 bits; last what a step that does nothing adds.
   WEIGHTS is not opened where the weights are linked in; THREADS share the work of run and step if the model was
   compiled for it. */

#include <string.h>

#include "samples.h"

#if __has_include("counters.h")
#include "counters.h"
#endif

#if !MODEL_WEIGHTS_EMBEDDED
static _Alignas(MODEL_ALIGNMENT) uint8_t model_weights[MODEL_WEIGHTS_BYTES];
#endif
static _Alignas(MODEL_ALIGNMENT) uint8_t arena[MODEL_TRACE_ARENA_BYTES];

#if __has_include("counters.h")
static void count_steps(FILE* file, const char* path) {
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
  read_all(argv[3], model_weights, sizeof model_weights);
#endif
  point_at_data();

  FILE* samples = opened(argv[4], "rb");
  FILE* results = opened(argv[5], "wb");
  FILE* arenas = traced || counted ? opened(argv[6], "wb") : NULL;
  while (read_sample(samples, argv[4])) {
    for (long repeat = 0; repeat < repeats; repeat++) {
      if (traced) {
        model_trace(inputs, outputs, model_weights, arena);
#if __has_include("counters.h")
      } else if (counted) {
        count_steps(arenas, argv[6]);
#endif
      } else if (stepped) {
        for (int32_t step = 0; step < MODEL_STEPS; step++) model_step(inputs, outputs, model_weights, arena, step);
      } else {
        model_run(inputs, outputs, model_weights, arena);
      }
    }
    append_outputs(results, argv[5]);
    if (traced) append(arenas, argv[6], arena, sizeof arena);
  }
  fclose(samples);
  close_written(results, argv[5]);
  close_written(arenas, argv[6]);
  return 0;
}
