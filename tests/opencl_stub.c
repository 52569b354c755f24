/* An OpenCL library whose device has the faults that the environment asks for, and runs nothing. At the end it prints how
   many objects were not released.

     STUB_PLATFORMS, STUB_DEVICES   how many there are (1)
     STUB_EXTENSIONS                the device's extensions (none)
     STUB_GROUP, STUB_ITEMS         the largest work-group, of a kernel and in a dimension (256)
     STUB_MOST                      bytes of the largest buffer (1 MiB)
     STUB_ALIGN                     bits to which parts of buffers are aligned (1024)
     STUB_ROUNDING                  float32 rounding modes (4: to nearest)
     STUB_COMPILER                  whether there is one (1)
     STUB_FAIL, STUB_ERROR          a function fails with an error
     STUB_BINARY                    bytes of compiled programs (16) */

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int objects;

static long setting(const char* name, long otherwise) {
  const char* text = getenv(name);
  return text ? atol(text) : otherwise;
}

/* The error that a function is to give. */
static int32_t fault(const char* function) {
  const char* name = getenv("STUB_FAIL");
  return name && !strcmp(name, function) ? (int32_t)setting("STUB_ERROR", -5) : 0;
}

static void* object(const char* function, int32_t* error) {
  *error = fault(function);
  if (*error) return NULL;
  objects++;
  return calloc(1, 1 << 20);
}

static int32_t released(void* it) {
  objects--;
  free(it);
  return 0;
}

static int32_t answer(const void* data, size_t bytes, size_t room, void* value, size_t* needed) {
  if (needed) *needed = bytes;
  if (!value) return 0;
  if (room < bytes) return -30;
  memcpy(value, data, bytes);
  return 0;
}

__attribute__((destructor)) static void report(void) { fprintf(stderr, "objects left: %d\n", objects); }

int32_t clGetPlatformIDs(uint32_t room, void** platforms, uint32_t* count) {
  *count = (uint32_t)setting("STUB_PLATFORMS", 1);
  if (!*count) return -1001;
  for (uint32_t i = 0; i < *count && i < room; i++) platforms[i] = &objects;
  return 0;
}

int32_t clGetDeviceIDs(void* platform, uint64_t kind, uint32_t room, void** devices, uint32_t* count) {
  (void)kind, (void)room;
  *count = (uint32_t)setting("STUB_DEVICES", 1);
  if (!*count) return -1;
  *devices = platform;
  return 0;
}

int32_t clGetDeviceInfo(void* device, uint32_t name, size_t room, void* value, size_t* needed) {
  (void)device;
  int32_t error = fault("clGetDeviceInfo");
  if (error) return error;
  const char* extensions = getenv("STUB_EXTENSIONS") ? getenv("STUB_EXTENSIONS") : "";
  size_t items = (size_t)setting("STUB_ITEMS", 256), sizes[3] = {items, items, items};
  uint64_t most = (uint64_t)setting("STUB_MOST", 1 << 20), rounding = (uint64_t)setting("STUB_ROUNDING", 4);
  uint32_t align = (uint32_t)setting("STUB_ALIGN", 1024), compiler = (uint32_t)setting("STUB_COMPILER", 1);
  switch (name) {
    case 0x1005: return answer(sizes, sizeof sizes, room, value, needed);
    case 0x1010: return answer(&most, sizeof most, room, value, needed);
    case 0x1019: return answer(&align, sizeof align, room, value, needed);
    case 0x101B: return answer(&rounding, sizeof rounding, room, value, needed);
    case 0x1028: return answer(&compiler, sizeof compiler, room, value, needed);
    case 0x1030: return answer(extensions, strlen(extensions) + 1, room, value, needed);
    default: return answer("stub", 5, room, value, needed);
  }
}

void* clCreateContext(const intptr_t* properties, uint32_t count, void* const* devices, void (*notify)(void), void* data,
                      int32_t* error) {
  (void)properties, (void)count, (void)devices, (void)notify, (void)data;
  return object("clCreateContext", error);
}

void* clCreateCommandQueue(void* context, void* device, uint64_t properties, int32_t* error) {
  (void)context, (void)device, (void)properties;
  return object("clCreateCommandQueue", error);
}

void* clCreateBuffer(void* context, uint64_t flags, size_t bytes, void* data, int32_t* error) {
  (void)context, (void)flags, (void)bytes, (void)data;
  return object("clCreateBuffer", error);
}

void* clCreateSubBuffer(void* buffer, uint64_t flags, uint32_t kind, const void* region, int32_t* error) {
  (void)buffer, (void)flags, (void)kind;
  if (((const size_t*)region)[0] * 8 % (size_t)setting("STUB_ALIGN", 1024)) {
    *error = -13;
    return NULL;
  }
  return object("clCreateSubBuffer", error);
}

void* clCreateProgramWithSource(void* context, uint32_t count, const char** texts, const size_t* sizes, int32_t* error) {
  (void)context, (void)count, (void)texts, (void)sizes;
  return object("clCreateProgramWithSource", error);
}

void* clCreateProgramWithBinary(void* context, uint32_t count, void* const* devices, const size_t* sizes,
                                const unsigned char** data, int32_t* status, int32_t* error) {
  (void)context, (void)count, (void)devices, (void)data;
  *status = *sizes == (size_t)setting("STUB_BINARY", 16) ? 0 : -42;
  return object("clCreateProgramWithBinary", error);
}

int32_t clBuildProgram(void* program, uint32_t count, void* const* devices, const char* options, void (*notify)(void),
                       void* data) {
  (void)program, (void)count, (void)devices, (void)options, (void)notify, (void)data;
  return fault("clBuildProgram");
}

int32_t clGetProgramInfo(void* program, uint32_t name, size_t room, void* value, size_t* needed) {
  (void)program;
  size_t bytes = (size_t)setting("STUB_BINARY", 16);
  if (name == 0x1165) return answer(&bytes, sizeof bytes, room, value, needed);
  memset(*(void**)value, 7, bytes);
  return 0;
}

int32_t clGetProgramBuildInfo(void* program, void* device, uint32_t name, size_t room, void* value, size_t* needed) {
  (void)program, (void)device, (void)name;
  static char log[10000];
  memset(log, 'x', sizeof log - 1);
  memcpy(log, "1:2: no such thing", 18);
  return answer(log, sizeof log, room, value, needed);
}

void* clCreateKernel(void* program, const char* name, int32_t* error) {
  (void)program, (void)name;
  return object("clCreateKernel", error);
}

int32_t clSetKernelArg(void* kernel, uint32_t index, size_t bytes, const void* value) {
  (void)kernel, (void)index, (void)bytes;
  return *(void* const*)value ? fault("clSetKernelArg") : -38;
}

int32_t clGetKernelWorkGroupInfo(void* kernel, void* device, uint32_t name, size_t room, void* value, size_t* needed) {
  (void)kernel, (void)device, (void)name;
  size_t most = (size_t)setting("STUB_GROUP", 256);
  return answer(&most, sizeof most, room, value, needed);
}

int32_t clEnqueueNDRangeKernel(void* queue, void* kernel, uint32_t rank, const size_t* offset, const size_t* global,
                               const size_t* local, uint32_t waits, void* const* list, void** event) {
  (void)queue, (void)kernel, (void)rank, (void)offset, (void)global, (void)local, (void)waits, (void)list;
  int32_t error = 0;
  if (event) *event = object("clEnqueueNDRangeKernel", &error);
  return error ? error : fault("clEnqueueNDRangeKernel");
}

int32_t clEnqueueReadBuffer(void* queue, void* buffer, uint32_t wait, size_t offset, size_t bytes, void* data,
                            uint32_t waits, void* const* list, void** event) {
  (void)queue, (void)wait, (void)waits, (void)list, (void)event;
  memcpy(data, (char*)buffer + offset, bytes);
  return fault("clEnqueueReadBuffer");
}

int32_t clEnqueueWriteBuffer(void* queue, void* buffer, uint32_t wait, size_t offset, size_t bytes, const void* data,
                             uint32_t waits, void* const* list, void** event) {
  (void)queue, (void)wait, (void)waits, (void)list, (void)event;
  memcpy((char*)buffer + offset, data, bytes);
  return fault("clEnqueueWriteBuffer");
}

void* clEnqueueMapBuffer(void* queue, void* buffer, uint32_t wait, uint64_t access, size_t offset, size_t bytes,
                         uint32_t waits, void* const* list, void** event, int32_t* error) {
  (void)queue, (void)wait, (void)access, (void)bytes, (void)waits, (void)list, (void)event;
  *error = fault("clEnqueueMapBuffer");
  return *error ? NULL : (char*)buffer + offset;
}

int32_t clEnqueueUnmapMemObject(void* queue, void* buffer, void* memory, uint32_t waits, void* const* list, void** event) {
  (void)queue, (void)buffer, (void)memory, (void)waits, (void)list, (void)event;
  return fault("clEnqueueUnmapMemObject");
}

int32_t clGetEventProfilingInfo(void* event, uint32_t name, size_t room, void* value, size_t* needed) {
  (void)event;
  uint64_t now = name == 0x1282 ? 1000 : 4000;
  int32_t error = fault("clGetEventProfilingInfo");
  return error ? error : answer(&now, sizeof now, room, value, needed);
}

int32_t clFinish(void* queue) {
  (void)queue;
  return fault("clFinish");
}

#ifndef STUB_WITHOUT_RELEASE
int32_t clReleaseContext(void* it) { return released(it); }
#endif
int32_t clReleaseCommandQueue(void* it) { return released(it); }
int32_t clReleaseMemObject(void* it) { return released(it); }
int32_t clReleaseProgram(void* it) { return released(it); }
int32_t clReleaseKernel(void* it) { return released(it); }
int32_t clReleaseEvent(void* it) { return released(it); }
