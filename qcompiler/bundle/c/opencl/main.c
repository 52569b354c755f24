/* Example: runs the model once on the GPU, from files to files.

     example [-p] [-c CACHE] [-l LIBRARY] FOLDER INPUT... OUTPUT...

   FOLDER holds kernels.cl and weights.bin. CACHE is a file for the compiled program: the first start writes it, later
   ones need no compiler. LIBRARY is the OpenCL library where it has an unusual name. Every other file holds one tensor
   as model.h describes it: row-major numbers without a header, in the order of model.h. With -p the time of each kernel
   is printed. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model.h"

static char kernels[MODEL_KERNELS_BYTES];
static _Alignas(MODEL_ALIGNMENT) uint8_t weights[MODEL_WEIGHTS_BYTES];
static _Alignas(MODEL_ALIGNMENT) uint8_t input_data[MODEL_INPUTS_BYTES];
static _Alignas(MODEL_ALIGNMENT) uint8_t output_data[MODEL_OUTPUTS_BYTES];

static const size_t input_offsets[] = MODEL_INPUT_OFFSETS, input_sizes[] = MODEL_INPUT_SIZES;
static const size_t output_offsets[] = MODEL_OUTPUT_OFFSETS, output_sizes[] = MODEL_OUTPUT_SIZES;

static int read_file(const char* path, void* data, size_t bytes) {
  FILE* file = fopen(path, "rb");
  int complete = file && fread(data, 1, bytes, file) == bytes && fgetc(file) == EOF;
  if (file) fclose(file);
  if (!complete) fprintf(stderr, "%s: cannot be read, or does not hold %zu bytes\n", path, bytes);
  return complete;
}

static int read_from(const char* folder, const char* name, void* data, size_t bytes) {
  char path[4096];
  snprintf(path, sizeof path, "%s/%s", folder, name);
  return read_file(path, data, bytes);
}

static int write_file(const char* path, const void* data, size_t bytes) {
  FILE* file = fopen(path, "wb");
  int complete = file && fwrite(data, 1, bytes, file) == bytes;
  if (file && fclose(file)) complete = 0;
  if (!complete) fprintf(stderr, "%s: cannot be written\n", path);
  return complete;
}

static int32_t print_profile(model_instance* instance) {
  static double seconds[MODEL_LAUNCHES + 1];
  int32_t status = model_profile(instance, seconds);
  for (int32_t i = 0; i < MODEL_LAUNCHES && !status; i++)
    printf("%10.1f us  %s  %s\n", 1e6 * seconds[i], model_launch_kernel(i), model_launch_layer(i));
  return status;
}

static int32_t run(model_instance* instance, int profile) {
  const void* inputs[MODEL_INPUTS];
  void* outputs[MODEL_OUTPUTS];
  for (int i = 0; i < MODEL_INPUTS; i++) inputs[i] = input_data + input_offsets[i];
  for (int i = 0; i < MODEL_OUTPUTS; i++) outputs[i] = output_data + output_offsets[i];
  const model_statistics* found = model_get_statistics(instance);
  printf("%s: program %s in %.1f ms\n", found->device, found->cache == MODEL_CACHE_USED ? "loaded" : "compiled",
         1e3 * found->build_seconds);
  int32_t status = model_run(instance, inputs, outputs);
  return status || !profile ? status : print_profile(instance);
}

int main(int argc, char** argv) {
  model_options options = {.kernels = kernels, .weights = weights};
  char** next = argv + 1;
  for (; *next && **next == '-'; next++) {
    if (!strcmp(*next, "-p")) options.profile = 1;
    else if (!strcmp(*next, "-c") && next[1]) options.cache = *++next;
    else if (!strcmp(*next, "-l") && next[1]) options.library = *++next;
    else break;
  }
  if (argv + argc - next != 1 + MODEL_INPUTS + MODEL_OUTPUTS) {
    fprintf(stderr, "usage: %s [-p] [-c CACHE] [-l LIBRARY] FOLDER INPUT... OUTPUT... (%d inputs, %d outputs)\n", argv[0],
            MODEL_INPUTS, MODEL_OUTPUTS);
    return 2;
  }
  const char* folder = *next++;
  if (!read_from(folder, "kernels.cl", kernels, sizeof kernels)) return 1;
  if (!read_from(folder, "weights.bin", weights, sizeof weights)) return 1;
  for (int i = 0; i < MODEL_INPUTS; i++)
    if (!read_file(*next++, input_data + input_offsets[i], input_sizes[i])) return 1;

  model_instance* instance;
  int32_t status = model_open(&options, &instance);
  if (!status) status = run(instance, options.profile);
  if (status) fprintf(stderr, "error %d: %s\n", status, model_message(instance));
  model_close(instance);
  if (status) return 1;

  for (int i = 0; i < MODEL_OUTPUTS; i++)
    if (!write_file(*next++, output_data + output_offsets[i], output_sizes[i])) return 1;
  return 0;
}
