// An OpenCL device for TVM's runtime, which its wheel lacks: one device, one queue in order. For tests alone.
//
// Registers `device_api.opencl`, the memory, and `ffi.Module.load_from_bytes.opencl`, the modules that TVM writes: text of
// kernels, each behind a line `// Function: NAME`, and for each the types of its arguments and what its extents mean.
#define CL_TARGET_OPENCL_VERSION 120
#include <CL/cl.h>
#include <tvm/ffi/extra/module.h>
#include <tvm/ffi/function.h>
#include <tvm/ffi/reflection/registry.h>
#include <tvm/runtime/device_api.h>

#include <cstring>
#include <map>
#include <string>
#include <vector>

namespace {

using tvm::Device;
namespace ffi = tvm::ffi;

void Check(cl_int error, const char* what) {
  if (error) TVM_FFI_THROW(RuntimeError) << what << ": OpenCL error " << error;
}

struct Machine {
  cl_platform_id platform;
  cl_device_id device;
  cl_context context;
  cl_command_queue queue;

  Machine() {
    cl_int error;
    Check(clGetPlatformIDs(1, &platform, nullptr), "platform");
    Check(clGetDeviceIDs(platform, CL_DEVICE_TYPE_ALL, 1, &device, nullptr), "device");
    context = clCreateContext(nullptr, 1, &device, nullptr, nullptr, &error);
    Check(error, "context");
    queue = clCreateCommandQueue(context, device, 0, &error);
    Check(error, "queue");
  }
};

Machine& machine() {
  static Machine* one = new Machine;
  return *one;
}

class Memory final : public tvm::runtime::DeviceAPI {
 public:
  void SetDevice(Device) final {}

  void GetAttr(Device device, tvm::runtime::DeviceAttrKind kind, ffi::Any* value) final {
    if (kind == tvm::runtime::kExist) *value = device.device_id == 0;
  }

  void* AllocDataSpace(Device, size_t bytes, size_t, DLDataType) final {
    cl_int error;
    cl_mem memory = clCreateBuffer(machine().context, CL_MEM_READ_WRITE, bytes ? bytes : 1, nullptr, &error);
    Check(error, "memory");
    return memory;
  }

  void FreeDataSpace(Device, void* memory) final { clReleaseMemObject(static_cast<cl_mem>(memory)); }

  void StreamSync(Device, TVMStreamHandle) final { Check(clFinish(machine().queue), "end"); }

 protected:
  void CopyDataFromTo(const void* from, size_t from_offset, void* to, size_t to_offset, size_t bytes, Device source,
                      Device target, DLDataType, TVMStreamHandle) final {
    cl_command_queue queue = machine().queue;
    cl_mem read = static_cast<cl_mem>(const_cast<void*>(from)), written = static_cast<cl_mem>(to);
    bool reads = source.device_type == kDLOpenCL, writes = target.device_type == kDLOpenCL;
    cl_int error;
    if (reads && writes) {
      error = clEnqueueCopyBuffer(queue, read, written, from_offset, to_offset, bytes, 0, nullptr, nullptr);
    } else if (reads) {
      char* data = static_cast<char*>(to) + to_offset;
      error = clEnqueueReadBuffer(queue, read, CL_TRUE, from_offset, bytes, data, 0, nullptr, nullptr);
    } else {
      const char* data = static_cast<const char*>(from) + from_offset;
      error = clEnqueueWriteBuffer(queue, written, CL_TRUE, to_offset, bytes, data, 0, nullptr, nullptr);
    }
    Check(error, "copy");
  }
};

struct Signature {
  size_t arguments;
  std::vector<std::string> extents;
};

class Kernels final : public ffi::ModuleObj {
 public:
  std::map<std::string, Signature> signatures;
  std::string text;

  const char* kind() const final { return "opencl"; }
  int GetPropertyMask() const final { return ffi::Module::kRunnable; }

  ffi::Optional<ffi::Function> GetFunction(const ffi::String& name) final {
    auto found = signatures.find(name);
    if (found == signatures.end()) return std::nullopt;
    cl_kernel kernel = Build(found->first);
    Signature signature = found->second;
    return ffi::Function::FromPacked([kernel, signature](const ffi::AnyView* values, int32_t, ffi::Any*) {
      for (size_t i = 0; i < signature.arguments; i++) {
        cl_mem memory = static_cast<cl_mem>(values[i].cast<void*>());
        Check(clSetKernelArg(kernel, static_cast<cl_uint>(i), sizeof memory, &memory), "argument");
      }
      size_t groups[3] = {1, 1, 1}, local[3] = {1, 1, 1}, all[3];
      for (size_t i = 0; i < signature.extents.size(); i++) {
        const std::string& tag = signature.extents[i];  // blockIdx.x ... threadIdx.z
        (tag[0] == 'b' ? groups : local)[tag.back() - 'x'] = values[signature.arguments + i].cast<int64_t>();
      }
      for (int i = 0; i < 3; i++) all[i] = groups[i] * local[i];
      Check(clEnqueueNDRangeKernel(machine().queue, kernel, 3, nullptr, all, local, 0, nullptr, nullptr), "launch");
    });
  }

 private:
  cl_kernel Build(const std::string& name) {
    size_t start = text.find("// Function: " + name + "\n");
    if (start == std::string::npos) TVM_FFI_THROW(RuntimeError) << "no text of kernel " << name;
    std::string own = text.substr(start, text.find("// Function: ", start + 1) - start);
    const char* source = own.c_str();
    cl_int error;
    cl_program program = clCreateProgramWithSource(machine().context, 1, &source, nullptr, &error);
    Check(error, "program");
    Check(clBuildProgram(program, 1, &machine().device, "", nullptr, nullptr), name.c_str());
    cl_kernel kernel = clCreateKernel(program, name.c_str(), &error);
    Check(error, "kernel");
    return kernel;
  }
};

class Reader {
 public:
  explicit Reader(const ffi::Bytes& bytes) : next_(bytes.data()) {}

  uint64_t Number() {
    uint64_t value;
    std::memcpy(&value, next_, sizeof value);
    next_ += sizeof value;
    return value;
  }

  std::string Text() {
    uint64_t length = Number();
    next_ += length;
    return std::string(next_ - length, length);
  }

  void Skip(uint64_t bytes) { next_ += bytes; }

 private:
  const char* next_;
};

ffi::Module Load(const ffi::Bytes& bytes) {
  Reader reader(bytes);
  auto kernels = ffi::make_object<Kernels>();
  reader.Text();  // the format's name
  for (uint64_t count = reader.Number(); count; count--) {
    std::string key = reader.Text();
    reader.Text();  // the name again
    Signature signature;
    signature.arguments = reader.Number();
    reader.Skip(4 * signature.arguments);  // their types; all are handles
    for (uint64_t tags = reader.Number(); tags; tags--) signature.extents.push_back(reader.Text());
    reader.Skip(4 * reader.Number());
    kernels->signatures[key] = signature;
  }
  kernels->text = reader.Text();
  return ffi::Module(kernels);
}

}  // namespace

TVM_FFI_STATIC_INIT_BLOCK() {
  namespace reflection = tvm::ffi::reflection;
  reflection::GlobalDef()
      .def_packed("device_api.opencl",
                  [](ffi::PackedArgs, ffi::Any* value) { *value = static_cast<void*>(new Memory); })
      .def("ffi.Module.load_from_bytes.opencl", Load);
}
