/* Runs the model through OpenCL 1.2: model.h says how, plan.h which kernels run on which memory. */
#define _POSIX_C_SOURCE 200809L

#include "model.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cache.h"
#include "opencl.h"
#include "plan.h"

struct model_instance {
  struct functions cl;
  handle platform, device, context, queue, program;
  handle weights, arena, inputs[MODEL_INPUTS + 1], outputs[MODEL_OUTPUTS + 1];
  handle ranges[MODEL_RANGES + 1], kernels[MODEL_LAUNCHES + 1], events[MODEL_LAUNCHES + 1];
  void *mapped_inputs[MODEL_INPUTS + 1], *mapped_outputs[MODEL_OUTPUTS + 1];
  int32_t filled[MODEL_INPUTS + 1]; /* whether an input has been given at all */
  size_t work_items[3];             /* the most in each dimension of a work-group */
  int32_t traced, profiled;
  model_statistics statistics;
  char message[MODEL_MESSAGE_BYTES];
};

/* -------------------------------------------------------------------------------------------------------------- errors */

static int32_t fail(model_instance* m, int32_t status, const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(m->message, sizeof m->message, format, arguments);
  va_end(arguments);
  return status;
}

static int32_t failed_call(model_instance* m, const char* what, int32_t error) {
  switch (error) {
    case MEM_OBJECT_ALLOCATION_FAILURE:
    case OUT_OF_RESOURCES:
    case OUT_OF_HOST_MEMORY:
    case INVALID_BUFFER_SIZE:
      return fail(m, MODEL_OUT_OF_MEMORY, "%s: out of memory (OpenCL error %d)", what, error);
    default: return fail(m, MODEL_DEVICE_ERROR, "%s: OpenCL error %d", what, error);
  }
}

#define CHECK(call)                  \
  do {                               \
    int32_t status_ = (call);        \
    if (status_) return status_;     \
  } while (0)

/* -------------------------------------------------------------------------------------------------- library and device */

static int32_t load_library(model_instance* m, const char* path) {
  char reason[256] = "";
  if (load_functions(&m->cl, path, reason, sizeof reason)) return MODEL_OK;
  return fail(m, MODEL_NO_LIBRARY, "no OpenCL library found (%s): install the driver of the GPU", reason);
}

/* The first GPU of all platforms, or else the first device of any kind. */
static int32_t choose_device(model_instance* m) {
  handle platforms[16];
  uint32_t count = 0, most = sizeof platforms / sizeof *platforms;
  if (m->cl.clGetPlatformIDs(most, platforms, &count)) count = 0;
  if (count > most) count = most;
  const uint64_t kinds[] = {DEVICE_TYPE_GPU, DEVICE_TYPE_ALL};
  for (int kind = 0; kind < 2; kind++) {
    for (uint32_t i = 0; i < count; i++) {
      uint32_t found = 0;
      if (m->cl.clGetDeviceIDs(platforms[i], kinds[kind], 1, &m->device, &found) || !found) continue;
      m->platform = platforms[i];
      return MODEL_OK;
    }
  }
  return fail(m, MODEL_NO_DEVICE, "the OpenCL library knows %u platforms, and no device", count);
}

/* A property that is text, allocated; NULL if there is none. */
static char* device_text(model_instance* m, uint32_t name) {
  size_t bytes = 0;
  if (m->cl.clGetDeviceInfo(m->device, name, 0, NULL, &bytes)) return NULL;
  char* text = calloc(bytes + 1, 1);
  if (text && !m->cl.clGetDeviceInfo(m->device, name, bytes, text, NULL)) return text;
  free(text);
  return NULL;
}

/* Whether a list of names with blanks between them has a name. */
static int lists(const char* names, const char* name) {
  size_t length = strlen(name);
  for (const char* at = names; (at = strstr(at, name)); at += length)
    if ((at == names || at[-1] == ' ') && (at[length] == ' ' || at[length] == 0)) return 1;
  return 0;
}

/* Whether an option of the compiler makes the kernels do without an extension. */
static int is_emulated(const char* extension, const char* options) {
  return options && !strcmp(extension, "cl_khr_fp16") && lists(options, "-DQCOMPILER_EMULATE_HALF");
}

static int32_t check_extensions(model_instance* m, const char* options) {
  static const char* const needed[] = {MODEL_EXTENSIONS NULL};
  char* known = device_text(m, DEVICE_EXTENSIONS);
  int32_t status = MODEL_OK;
  for (int i = 0; needed[i] && !status; i++)
    if ((!known || !lists(known, needed[i])) && !is_emulated(needed[i], options))
      status = fail(m, MODEL_UNSUPPORTED, "%s lacks the extension %s, which the kernels need: compile the model for another target",
                    m->statistics.device, needed[i]);
  free(known);
  return status;
}

#define PROPERTY(m, name, value) \
  ((m)->cl.clGetDeviceInfo((m)->device, name, sizeof(value), &(value), NULL) ? fail_property(m, name) : MODEL_OK)

static int32_t fail_property(model_instance* m, uint32_t name) {
  return fail(m, MODEL_DEVICE_ERROR, "%s does not tell its property 0x%x", m->statistics.device, name);
}

static int32_t check_device(model_instance* m, const char* options) {
  const char* device = m->statistics.device;
  uint32_t has_compiler, align_bits;
  uint64_t rounding, most;
  CHECK(PROPERTY(m, DEVICE_COMPILER_AVAILABLE, has_compiler));
  CHECK(PROPERTY(m, DEVICE_MEM_BASE_ADDR_ALIGN, align_bits));
  CHECK(PROPERTY(m, DEVICE_SINGLE_FP_CONFIG, rounding));
  CHECK(PROPERTY(m, DEVICE_MAX_MEM_ALLOC_SIZE, most));
  CHECK(PROPERTY(m, DEVICE_MAX_WORK_ITEM_SIZES, m->work_items));
  if (!has_compiler) return fail(m, MODEL_UNSUPPORTED, "%s has no compiler for OpenCL C", device);
  if (align_bits > MODEL_RANGE_ALIGNMENT * 8 || MODEL_RANGE_ALIGNMENT * 8 % align_bits)
    return fail(m, MODEL_UNSUPPORTED, "%s needs buffers aligned to %u bits, the model's are to %u bytes", device,
                align_bits, (unsigned)MODEL_RANGE_ALIGNMENT);
  if (!(rounding & FP_ROUND_TO_NEAREST))
    return fail(m, MODEL_UNSUPPORTED, "%s does not round float32 to nearest, its results would differ", device);
  uint64_t wanted = m->traced ? MODEL_TRACE_ARENA_BYTES : MODEL_ARENA_BYTES;
  if (wanted < MODEL_WEIGHTS_BYTES) wanted = MODEL_WEIGHTS_BYTES;
  if (wanted > most)
    return fail(m, MODEL_OUT_OF_MEMORY, "%s allows buffers of %llu bytes, the model needs one of %llu", device,
                (unsigned long long)most, (unsigned long long)wanted);
  return check_extensions(m, options);
}

/* ------------------------------------------------------------------------------------------------------------- program */

/* What a compiled program depends on. */
static uint64_t program_key(model_instance* m, const char* options, const char* kernels) {
  static const uint32_t names[] = {DEVICE_NAME, DEVICE_VERSION, DRIVER_VERSION};
  uint64_t key = HASH_START;
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    char* text = device_text(m, names[i]);
    if (text) key = hash(key, text, strlen(text) + 1);
    free(text);
  }
  key = hash(key, options, strlen(options) + 1);
  return hash(key, kernels, MODEL_KERNELS_BYTES);
}

static int program_from_cache(model_instance* m, const char* path, uint64_t key, const char* options) {
  size_t bytes = 0;
  unsigned char* data = read_cache(path, key, &bytes);
  if (!data) return 0;
  int32_t loaded = 0, error = 0;
  m->program = m->cl.clCreateProgramWithBinary(m->context, 1, &m->device, &bytes, (const unsigned char**)&data, &loaded,
                                               &error);
  free(data);
  if (m->program && !error && !loaded && !m->cl.clBuildProgram(m->program, 1, &m->device, options, NULL, NULL)) return 1;
  if (m->program) m->cl.clReleaseProgram(m->program);
  m->program = NULL;
  return 0;
}

static int32_t program_from_source(model_instance* m, const char* kernels, const char* options) {
  size_t bytes = MODEL_KERNELS_BYTES;
  int32_t error = 0;
  m->program = m->cl.clCreateProgramWithSource(m->context, 1, &kernels, &bytes, &error);
  if (!m->program) return failed_call(m, "taking the kernels", error);
  error = m->cl.clBuildProgram(m->program, 1, &m->device, options, NULL, NULL);
  if (!error) return MODEL_OK;
  int length = snprintf(m->message, sizeof m->message, "%s cannot compile the kernels (OpenCL error %d): ",
                        m->statistics.device, error);
  size_t room = sizeof m->message - (size_t)length, needed = 0;
  m->cl.clGetProgramBuildInfo(m->program, m->device, PROGRAM_BUILD_LOG, 0, NULL, &needed);
  char* log = calloc(needed + 1, 1);
  if (log && !m->cl.clGetProgramBuildInfo(m->program, m->device, PROGRAM_BUILD_LOG, needed, log, NULL))
    snprintf(m->message + length, room, "%s", log);
  free(log);
  return MODEL_BUILD_FAILED;
}

static int save_program(model_instance* m, const char* path, uint64_t key) {
  size_t bytes = 0;
  if (m->cl.clGetProgramInfo(m->program, PROGRAM_BINARY_SIZES, sizeof bytes, &bytes, NULL) || !bytes) return 0;
  unsigned char* data = malloc(bytes);
  int saved = data && !m->cl.clGetProgramInfo(m->program, PROGRAM_BINARIES, sizeof data, &data, NULL) &&
              write_cache(path, key, data, bytes);
  free(data);
  return saved;
}

static double seconds_now(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static int32_t build(model_instance* m, const model_options* given) {
  const char* further = given->build_options ? given->build_options : "";
  size_t length = sizeof MODEL_BUILD_OPTIONS + strlen(further) + 1;
  char* options = malloc(length);
  if (!options) return failed_call(m, "building the program", OUT_OF_HOST_MEMORY);
  snprintf(options, length, "%s %s", MODEL_BUILD_OPTIONS, further);
  uint64_t key = program_key(m, options, given->kernels);
  double start = seconds_now();
  int32_t status = MODEL_OK;
  int cached = given->cache && program_from_cache(m, given->cache, key, options);
  if (!cached) status = program_from_source(m, given->kernels, options);
  m->statistics.build_seconds = seconds_now() - start;
  m->statistics.cache = cached ? MODEL_CACHE_USED : MODEL_CACHE_NONE;
  if (!status && !cached && given->cache)
    m->statistics.cache = save_program(m, given->cache, key) ? MODEL_CACHE_WRITTEN : MODEL_CACHE_FAILED;
  free(options);
  return status;
}

/* -------------------------------------------------------------------------------------------------------------- memory */

static int32_t create_buffer(model_instance* m, handle* buffer, uint64_t flags, size_t bytes, const void* data,
                             const char* what) {
  int32_t error = 0;
  union { /* the interface takes a pointer to what it only reads */
    const void* given;
    void* taken;
  } content = {data};
  *buffer = m->cl.clCreateBuffer(m->context, flags | (data ? MEM_COPY_HOST_PTR : 0), bytes, content.taken, &error);
  if (*buffer && !error) return MODEL_OK;
  char text[96];
  snprintf(text, sizeof text, "a buffer of %llu bytes for %s", (unsigned long long)bytes, what);
  return failed_call(m, text, error);
}

static const size_t INPUT_SIZES[] = MODEL_INPUT_SIZES, OUTPUT_SIZES[] = MODEL_OUTPUT_SIZES;

static int32_t create_buffers(model_instance* m, const void* weights) {
  size_t arena = m->traced ? MODEL_TRACE_ARENA_BYTES : MODEL_ARENA_BYTES;
  CHECK(create_buffer(m, &m->weights, MEM_READ_ONLY, MODEL_WEIGHTS_BYTES, weights, "the weights"));
  CHECK(create_buffer(m, &m->arena, MEM_READ_WRITE, arena, NULL, "the arena"));
  for (int i = 0; i < MODEL_INPUTS; i++)
    CHECK(create_buffer(m, &m->inputs[i], MEM_READ_WRITE | MEM_ALLOC_HOST_PTR, INPUT_SIZES[i], NULL, "an input"));
  for (int i = 0; i < MODEL_OUTPUTS; i++)
    CHECK(create_buffer(m, &m->outputs[i], MEM_READ_WRITE | MEM_ALLOC_HOST_PTR, OUTPUT_SIZES[i], NULL, "an output"));
  for (int i = 0; i < MODEL_RANGES; i++) {
    const struct range* range = &RANGES[i];
    if (range->base != IN_WEIGHTS && range->base != IN_ARENA) continue;
    const size_t region[2] = {m->traced ? range->trace_position : range->position, range->bytes};
    handle whole = range->base == IN_ARENA ? m->arena : m->weights;
    int32_t error = 0;
    m->ranges[i] = m->cl.clCreateSubBuffer(whole, 0, BUFFER_CREATE_TYPE_REGION, region, &error);
    if (!m->ranges[i] || error) return failed_call(m, "a part of a buffer", error);
  }
  return MODEL_OK;
}

static handle* memory_of(model_instance* m, uint32_t index) {
  const struct range* range = &RANGES[index];
  if (range->base == IN_INPUT) return &m->inputs[range->position];
  if (range->base == IN_OUTPUT) return &m->outputs[range->position];
  return &m->ranges[index];
}

/* ------------------------------------------------------------------------------------------------------------- kernels */

static int32_t check_group(model_instance* m, const struct launch* launch, handle kernel) {
  const size_t* local = launch->local;
  size_t items = local[0] * local[1] * local[2], most = 0;
  int32_t error = m->cl.clGetKernelWorkGroupInfo(kernel, m->device, KERNEL_WORK_GROUP_SIZE, sizeof most, &most, NULL);
  if (error) return failed_call(m, launch->kernel, error);
  if (items > most)
    return fail(m, MODEL_WORK_GROUP, "kernel %s has work-groups of %llu items, %s runs it with %llu at most",
                launch->kernel, (unsigned long long)items, m->statistics.device, (unsigned long long)most);
  for (int i = 0; i < 3; i++)
    if (local[i] > m->work_items[i])
      return fail(m, MODEL_WORK_GROUP, "kernel %s has work-groups of %llu items in dimension %d, %s allows %llu",
                  launch->kernel, (unsigned long long)local[i], i, m->statistics.device,
                  (unsigned long long)m->work_items[i]);
  return MODEL_OK;
}

static int32_t create_kernels(model_instance* m) {
  for (int i = 0; i < MODEL_LAUNCHES; i++) {
    const struct launch* launch = &LAUNCHES[i];
    int32_t error = 0;
    m->kernels[i] = m->cl.clCreateKernel(m->program, launch->kernel, &error);
    if (!m->kernels[i] || error) return failed_call(m, launch->kernel, error);
    CHECK(check_group(m, launch, m->kernels[i]));
    for (uint32_t j = 0; j < launch->arguments; j++) {
      handle* memory = memory_of(m, ARGUMENTS[launch->first_argument + j]);
      error = m->cl.clSetKernelArg(m->kernels[i], j, sizeof *memory, memory);
      if (error) return failed_call(m, launch->kernel, error);
    }
  }
  return MODEL_OK;
}

/* ----------------------------------------------------------------------------------------------------------- interface */

static int32_t start(model_instance* m, const model_options* options) {
  if (!options || !options->kernels || !options->weights)
    return fail(m, MODEL_BAD_ARGUMENT, "kernels and weights have to be given");
  m->traced = options->trace;
  m->profiled = options->profile;
  CHECK(load_library(m, options->library));
  CHECK(choose_device(m));
  char* name = device_text(m, DEVICE_NAME);
  snprintf(m->statistics.device, sizeof m->statistics.device, "%s", name ? name : "a device without a name");
  free(name);
  CHECK(check_device(m, options->build_options));
  int32_t error = 0;
  const intptr_t properties[] = {CONTEXT_PLATFORM, (intptr_t)m->platform, 0};
  m->context = m->cl.clCreateContext(properties, 1, &m->device, NULL, NULL, &error);
  if (!m->context) return failed_call(m, "a context", error);
  m->queue = m->cl.clCreateCommandQueue(m->context, m->device, m->profiled ? QUEUE_PROFILING_ENABLE : 0, &error);
  if (!m->queue) return failed_call(m, "a queue", error);
  CHECK(create_buffers(m, options->weights));
  CHECK(build(m, options));
  return create_kernels(m);
}

int32_t model_open(const model_options* options, model_instance** instance) {
  *instance = calloc(1, sizeof **instance);
  return *instance ? start(*instance, options) : MODEL_OUT_OF_MEMORY;
}

static void release_events(model_instance* m) {
  for (int i = 0; i < MODEL_LAUNCHES; i++) {
    if (m->events[i]) m->cl.clReleaseEvent(m->events[i]);
    m->events[i] = NULL;
  }
}

void model_close(model_instance* m) {
  if (!m) return;
  if (m->queue) m->cl.clFinish(m->queue);
  release_events(m);
  for (int i = 0; i < MODEL_LAUNCHES; i++)
    if (m->kernels[i]) m->cl.clReleaseKernel(m->kernels[i]);
  for (int i = 0; i < MODEL_RANGES; i++)
    if (m->ranges[i]) m->cl.clReleaseMemObject(m->ranges[i]);
  for (int i = 0; i < MODEL_INPUTS; i++)
    if (m->inputs[i]) m->cl.clReleaseMemObject(m->inputs[i]);
  for (int i = 0; i < MODEL_OUTPUTS; i++)
    if (m->outputs[i]) m->cl.clReleaseMemObject(m->outputs[i]);
  if (m->arena) m->cl.clReleaseMemObject(m->arena);
  if (m->weights) m->cl.clReleaseMemObject(m->weights);
  if (m->program) m->cl.clReleaseProgram(m->program);
  if (m->queue) m->cl.clReleaseCommandQueue(m->queue);
  if (m->context) m->cl.clReleaseContext(m->context);
  free(m);
}

const char* model_message(const model_instance* m) { return m ? m->message : "out of memory for the instance"; }

const model_statistics* model_get_statistics(const model_instance* m) { return &m->statistics; }

static int32_t map(model_instance* m, handle buffer, uint64_t access, size_t bytes, void** mapped) {
  int32_t error = 0;
  if (*mapped) return MODEL_OK;
  *mapped = m->cl.clEnqueueMapBuffer(m->queue, buffer, 1, access, 0, bytes, 0, NULL, NULL, &error);
  if (*mapped && !error) return MODEL_OK;
  *mapped = NULL;
  return failed_call(m, "mapping a buffer", error);
}

static int32_t unmap(model_instance* m, handle buffer, void** mapped) {
  if (!*mapped) return MODEL_OK;
  int32_t error = m->cl.clEnqueueUnmapMemObject(m->queue, buffer, *mapped, 0, NULL, NULL);
  *mapped = NULL;
  return error ? failed_call(m, "unmapping a buffer", error) : MODEL_OK;
}

int32_t model_map_input(model_instance* m, int32_t input, void** memory) {
  *memory = NULL;
  if (input < 0 || input >= MODEL_INPUTS) return fail(m, MODEL_BAD_ARGUMENT, "there is no input %d", input);
  CHECK(map(m, m->inputs[input], MAP_READ | MAP_WRITE, INPUT_SIZES[input], &m->mapped_inputs[input]));
  *memory = m->mapped_inputs[input];
  m->filled[input] = 1;
  return MODEL_OK;
}

int32_t model_map_output(model_instance* m, int32_t output, const void** memory) {
  *memory = NULL;
  if (output < 0 || output >= MODEL_OUTPUTS) return fail(m, MODEL_BAD_ARGUMENT, "there is no output %d", output);
  CHECK(map(m, m->outputs[output], MAP_READ, OUTPUT_SIZES[output], &m->mapped_outputs[output]));
  *memory = m->mapped_outputs[output];
  return MODEL_OK;
}

static int32_t give_inputs(model_instance* m, const void* const* inputs) {
  for (int i = 0; i < MODEL_INPUTS; i++) {
    CHECK(unmap(m, m->inputs[i], &m->mapped_inputs[i]));
    if (!inputs[i] && m->filled[i]) continue;
    if (!inputs[i])
      return fail(m, MODEL_BAD_ARGUMENT, "input %d is NULL and was never filled through model_map_input", i);
    int32_t error = m->cl.clEnqueueWriteBuffer(m->queue, m->inputs[i], 0, 0, INPUT_SIZES[i], inputs[i], 0, NULL, NULL);
    if (error) return failed_call(m, "writing an input", error);
    m->filled[i] = 1;
  }
  return MODEL_OK;
}

static int32_t enqueue(model_instance* m) {
  for (int i = 0; i < MODEL_LAUNCHES; i++) {
    const struct launch* launch = &LAUNCHES[i];
    int32_t error = m->cl.clEnqueueNDRangeKernel(m->queue, m->kernels[i], 3, NULL, launch->global, launch->local, 0,
                                                 NULL, m->profiled ? &m->events[i] : NULL);
    if (error) return failed_call(m, launch->kernel, error);
  }
  return MODEL_OK;
}

static int32_t execute(model_instance* m, const void* const* inputs, void* const* outputs) {
  CHECK(give_inputs(m, inputs));
  for (int i = 0; i < MODEL_OUTPUTS; i++) CHECK(unmap(m, m->outputs[i], &m->mapped_outputs[i]));
  release_events(m);
  CHECK(enqueue(m));
  for (int i = 0; i < MODEL_OUTPUTS; i++) {
    if (!outputs[i]) continue;
    int32_t error = m->cl.clEnqueueReadBuffer(m->queue, m->outputs[i], 1, 0, OUTPUT_SIZES[i], outputs[i], 0, NULL, NULL);
    if (error) return failed_call(m, "reading an output", error);
  }
  return MODEL_OK;
}

int32_t model_run(model_instance* m, const void* const* inputs, void* const* outputs) {
  int32_t status = execute(m, inputs, outputs);
  /* The queue may still read the caller's memory, so it is emptied after a failure too. */
  int32_t error = m->cl.clFinish(m->queue);
  return status || !error ? status : failed_call(m, "running the kernels", error);
}

int32_t model_read_arena(model_instance* m, void* arena) {
  if (!m->traced) return fail(m, MODEL_BAD_ARGUMENT, "model_read_arena needs an instance opened with trace");
  int32_t error = m->cl.clEnqueueReadBuffer(m->queue, m->arena, 1, 0, MODEL_TRACE_ARENA_BYTES, arena, 0, NULL, NULL);
  return error ? failed_call(m, "reading the arena", error) : MODEL_OK;
}

int32_t model_profile(model_instance* m, double* seconds) {
  if (!m->profiled) return fail(m, MODEL_BAD_ARGUMENT, "model_profile needs an instance opened with profile");
  for (int i = 0; i < MODEL_LAUNCHES; i++) {
    uint64_t from = 0, to = 0;
    if (!m->events[i]) return fail(m, MODEL_BAD_ARGUMENT, "model_profile needs a run before it");
    int32_t error = m->cl.clGetEventProfilingInfo(m->events[i], PROFILING_COMMAND_START, sizeof from, &from, NULL);
    if (!error) error = m->cl.clGetEventProfilingInfo(m->events[i], PROFILING_COMMAND_END, sizeof to, &to, NULL);
    if (error) return failed_call(m, LAUNCHES[i].kernel, error);
    seconds[i] = 1e-9 * (double)(to - from);
  }
  return MODEL_OK;
}

const char* model_launch_kernel(int32_t launch) { return LAUNCHES[launch].kernel; }

const char* model_launch_layer(int32_t launch) { return LAUNCHES[launch].layer; }
