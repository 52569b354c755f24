/* What model.c uses of OpenCL 1.2, with the values of the Khronos specification: no header of OpenCL is needed to compile
   it. The library is loaded at run time, so that a program starts on devices without one too. */
#ifndef MODEL_OPENCL_H
#define MODEL_OPENCL_H

#include <dlfcn.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

typedef void* handle; /* a platform, device, context, queue, buffer, program, kernel or event */

#define FUNCTIONS(F)                                                                                                   \
  F(int32_t, clGetPlatformIDs, (uint32_t, handle*, uint32_t*))                                                         \
  F(int32_t, clGetDeviceIDs, (handle, uint64_t, uint32_t, handle*, uint32_t*))                                         \
  F(int32_t, clGetDeviceInfo, (handle, uint32_t, size_t, void*, size_t*))                                              \
  F(handle, clCreateContext,                                                                                           \
    (const intptr_t*, uint32_t, const handle*, void (*)(const char*, const void*, size_t, void*), void*, int32_t*))    \
  F(int32_t, clReleaseContext, (handle))                                                                               \
  F(handle, clCreateCommandQueue, (handle, handle, uint64_t, int32_t*))                                                \
  F(int32_t, clReleaseCommandQueue, (handle))                                                                          \
  F(handle, clCreateBuffer, (handle, uint64_t, size_t, void*, int32_t*))                                               \
  F(handle, clCreateSubBuffer, (handle, uint64_t, uint32_t, const void*, int32_t*))                                    \
  F(int32_t, clReleaseMemObject, (handle))                                                                             \
  F(handle, clCreateProgramWithSource, (handle, uint32_t, const char**, const size_t*, int32_t*))                      \
  F(handle, clCreateProgramWithBinary,                                                                                 \
    (handle, uint32_t, const handle*, const size_t*, const unsigned char**, int32_t*, int32_t*))                       \
  F(int32_t, clBuildProgram, (handle, uint32_t, const handle*, const char*, void (*)(handle, void*), void*))           \
  F(int32_t, clGetProgramInfo, (handle, uint32_t, size_t, void*, size_t*))                                             \
  F(int32_t, clGetProgramBuildInfo, (handle, handle, uint32_t, size_t, void*, size_t*))                                \
  F(int32_t, clReleaseProgram, (handle))                                                                               \
  F(handle, clCreateKernel, (handle, const char*, int32_t*))                                                           \
  F(int32_t, clSetKernelArg, (handle, uint32_t, size_t, const void*))                                                  \
  F(int32_t, clGetKernelWorkGroupInfo, (handle, handle, uint32_t, size_t, void*, size_t*))                             \
  F(int32_t, clReleaseKernel, (handle))                                                                                \
  F(int32_t, clEnqueueNDRangeKernel,                                                                                   \
    (handle, handle, uint32_t, const size_t*, const size_t*, const size_t*, uint32_t, const handle*, handle*))         \
  F(int32_t, clEnqueueReadBuffer, (handle, handle, uint32_t, size_t, size_t, void*, uint32_t, const handle*, handle*)) \
  F(int32_t, clEnqueueWriteBuffer,                                                                                     \
    (handle, handle, uint32_t, size_t, size_t, const void*, uint32_t, const handle*, handle*))                         \
  F(void*, clEnqueueMapBuffer,                                                                                         \
    (handle, handle, uint32_t, uint64_t, size_t, size_t, uint32_t, const handle*, handle*, int32_t*))                  \
  F(int32_t, clEnqueueUnmapMemObject, (handle, handle, void*, uint32_t, const handle*, handle*))                       \
  F(int32_t, clGetEventProfilingInfo, (handle, uint32_t, size_t, void*, size_t*))                                      \
  F(int32_t, clReleaseEvent, (handle))                                                                                 \
  F(int32_t, clFinish, (handle))

struct functions {
#define MEMBER(result, name, arguments) result(*name) arguments;
  FUNCTIONS(MEMBER)
#undef MEMBER
};

enum {
  MEM_OBJECT_ALLOCATION_FAILURE = -4,
  OUT_OF_RESOURCES = -5,
  OUT_OF_HOST_MEMORY = -6,
  INVALID_BUFFER_SIZE = -61,
  DEVICE_TYPE_GPU = 1 << 2,
  DEVICE_MAX_WORK_ITEM_SIZES = 0x1005,
  DEVICE_MAX_MEM_ALLOC_SIZE = 0x1010,
  DEVICE_MEM_BASE_ADDR_ALIGN = 0x1019,
  DEVICE_SINGLE_FP_CONFIG = 0x101B,
  DEVICE_COMPILER_AVAILABLE = 0x1028,
  DEVICE_NAME = 0x102B,
  DRIVER_VERSION = 0x102D,
  DEVICE_VERSION = 0x102F,
  DEVICE_EXTENSIONS = 0x1030,
  FP_ROUND_TO_NEAREST = 1 << 2,
  CONTEXT_PLATFORM = 0x1084,
  QUEUE_PROFILING_ENABLE = 1 << 1,
  MEM_READ_WRITE = 1 << 0,
  MEM_READ_ONLY = 1 << 2,
  MEM_ALLOC_HOST_PTR = 1 << 4,
  MEM_COPY_HOST_PTR = 1 << 5,
  BUFFER_CREATE_TYPE_REGION = 0x1220,
  MAP_READ = 1 << 0,
  MAP_WRITE = 1 << 1,
  PROGRAM_BINARY_SIZES = 0x1165,
  PROGRAM_BINARIES = 0x1166,
  PROGRAM_BUILD_LOG = 0x1183,
  KERNEL_WORK_GROUP_SIZE = 0x11B0,
  PROFILING_COMMAND_START = 0x1282,
  PROFILING_COMMAND_END = 0x1283
};
static const uint64_t DEVICE_TYPE_ALL = 0xFFFFFFFF;

/* Where the library is looked for. */
static const char* const LIBRARIES[] = {
    "libOpenCL.so",
    "libOpenCL.so.1",
    "/vendor/lib64/libOpenCL.so",
    "/system/vendor/lib64/libOpenCL.so",
    "libGLES_mali.so",
    "/vendor/lib64/egl/libGLES_mali.so",
    "/system/vendor/lib64/egl/libGLES_mali.so",
    "libmali.so",
    "libmali.so.1",
};

/* The name of a function that the library lacks, NULL if it has all. */
static const char* look_up(struct functions* cl, void* library) {
#define LOOK_UP(result, name, arguments) \
  if (!(*(void**)&cl->name = dlsym(library, #name))) return #name;
  FUNCTIONS(LOOK_UP)
#undef LOOK_UP
  return NULL;
}

/* 0 and a reason if there is no library, at `path` if it is not NULL. It stays loaded: drivers keep threads that may
   outlive an instance. */
static int load_functions(struct functions* cl, const char* path, char* reason, size_t room) {
  const char* const* names = path ? &path : LIBRARIES;
  size_t count = path ? 1 : sizeof LIBRARIES / sizeof *LIBRARIES;
  for (size_t i = 0; i < count; i++) {
    void* library = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
    const char* lacking = library ? look_up(cl, library) : NULL;
    if (library && !lacking) return 1;
    if (lacking) snprintf(reason, room, "%s has no function %s", names[i], lacking);
    else if (!*reason) snprintf(reason, room, "%s", dlerror());
    if (library) dlclose(library);
  }
  return 0;
}

#endif
