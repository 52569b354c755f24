/* Example: runs the model once, from files to files.

     example [WEIGHTS] INPUT... OUTPUT...

   WEIGHTS is weights.bin; it is left out where the weights are linked in. Every other file holds one tensor
   as model.h describes it: row-major numbers without a header, in the order of model.h. */

#include <stdio.h>

#include "model.h"

#if !MODEL_WEIGHTS_EMBEDDED
static _Alignas(MODEL_ALIGNMENT) uint8_t model_weights[MODEL_WEIGHTS_BYTES];
#endif
static _Alignas(MODEL_ALIGNMENT) uint8_t input_data[MODEL_INPUTS_BYTES];
static _Alignas(MODEL_ALIGNMENT) uint8_t output_data[MODEL_OUTPUTS_BYTES];
static _Alignas(MODEL_ALIGNMENT) uint8_t arena[MODEL_ARENA_BYTES];

static const size_t input_offsets[] = MODEL_INPUT_OFFSETS, input_sizes[] = MODEL_INPUT_SIZES;
static const size_t output_offsets[] = MODEL_OUTPUT_OFFSETS, output_sizes[] = MODEL_OUTPUT_SIZES;

static int read_file(const char* path, void* data, size_t bytes) {
  FILE* file = fopen(path, "rb");
  int complete = file && fread(data, 1, bytes, file) == bytes && fgetc(file) == EOF;
  if (file) fclose(file);
  if (!complete) fprintf(stderr, "%s: cannot be read, or does not hold %zu bytes\n", path, bytes);
  return complete;
}

static int write_file(const char* path, const void* data, size_t bytes) {
  FILE* file = fopen(path, "wb");
  int complete = file && fwrite(data, 1, bytes, file) == bytes;
  if (file && fclose(file)) complete = 0;
  if (!complete) fprintf(stderr, "%s: cannot be written\n", path);
  return complete;
}

int main(int argc, char** argv) {
  if (argc != 1 + !MODEL_WEIGHTS_EMBEDDED + MODEL_INPUTS + MODEL_OUTPUTS) {
    fprintf(stderr, "usage: %s%s INPUT... OUTPUT... (%d inputs, %d outputs)\n", argv[0],
            MODEL_WEIGHTS_EMBEDDED ? "" : " weights.bin", MODEL_INPUTS, MODEL_OUTPUTS);
    return 2;
  }
  char** next = argv + 1;
#if !MODEL_WEIGHTS_EMBEDDED
  if (!read_file(*next++, model_weights, MODEL_WEIGHTS_BYTES)) return 1;
#endif

  const void* inputs[MODEL_INPUTS];
  for (int i = 0; i < MODEL_INPUTS; i++) {
    inputs[i] = input_data + input_offsets[i];
    if (!read_file(*next++, input_data + input_offsets[i], input_sizes[i])) return 1;
  }
  void* outputs[MODEL_OUTPUTS];
  for (int i = 0; i < MODEL_OUTPUTS; i++) outputs[i] = output_data + output_offsets[i];

  model_run(inputs, outputs, model_weights, arena);

  for (int i = 0; i < MODEL_OUTPUTS; i++)
    if (!write_file(*next++, outputs[i], output_sizes[i])) return 1;
  return 0;
}
