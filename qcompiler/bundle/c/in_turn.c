/* A launcher for model.h that starts no threads: as many tasks as there would be threads, one after the other. It is
   the example for one of the machine's own, whose threads each hold a vector context. It allocates nothing. */
#include <stddef.h>

#include "model.h"

static int32_t count = 1;

static void launch(model_task task, void* context) {
  for (int32_t index = 0; index < count; index++) task(context, index, count);
}

int32_t model_set_threads(int32_t threads) {
  count = threads > 1 ? threads : 1;
  model_parallel_launch = count > 1 ? launch : NULL;
  return count;
}
