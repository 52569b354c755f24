/* Runs the model on many samples in one process, on an OpenCL device of this machine.

     emulated MODE REPEATS KERNELS WEIGHTS INPUTS OUTPUTS ARENAS CACHE OPTIONS

   MODE is run or trace. KERNELS and WEIGHTS are kernels.cl and weights.bin. INPUTS holds the inputs of each sample one
   after the other, samples likewise, and decides how many there are. Each runs REPEATS times; then its outputs are
   appended to OUTPUTS, and if MODE is trace the arena to ARENAS. CACHE keeps the compiled program; OPTIONS are further
   ones of the OpenCL compiler. A failure of the driver ends with ten more than its code. */

#include <string.h>

#include "samples.h"

static char kernels[MODEL_KERNELS_BYTES];
static _Alignas(MODEL_ALIGNMENT) uint8_t weights[MODEL_WEIGHTS_BYTES];
static _Alignas(MODEL_ALIGNMENT) uint8_t arena[MODEL_TRACE_ARENA_BYTES];

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
  point_at_data();

  FILE* samples = opened(argv[5], "rb");
  FILE* results = opened(argv[6], "wb");
  FILE* arenas = traced ? opened(argv[7], "wb") : NULL;
  while (read_sample(samples, argv[5])) {
    for (long repeat = 0; repeat < repeats; repeat++) check(model_run(instance, inputs, outputs), instance);
    if (traced) check(model_read_arena(instance, arena), instance);
    append_outputs(results, argv[6]);
    if (traced) append(arenas, argv[7], arena, sizeof arena);
  }
  model_close(instance);
  fclose(samples);
  close_written(results, argv[6]);
  close_written(arenas, argv[7]);
  return 0;
}
