// What torch's C++ asks of a CUDA build before a call reaches Python: is there a device, who guards it, who draws for it.
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

static const c10::Device GPU(c10::DeviceType::CUDA, 0);

// Numbers as the CPU draws them, under the device's name: a CPU kernel refuses it, as it would a real one.
struct Dice final : at::CPUGeneratorImpl {
  Dice() : at::CPUGeneratorImpl(c10::default_rng_seed_val) { device_ = GPU; }
};

namespace at::detail {
struct CUDAHooks final : at::CUDAHooksInterface {
  explicit CUDAHooks(at::CUDAHooksArgs) {}
  void init() const override {}
  bool hasCUDA() const override { return true; }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  c10::DeviceIndex deviceCount() const override { return 1; }
  c10::DeviceIndex getCurrentDevice() const override { return 0; }
  at::Generator getNewGenerator(c10::DeviceIndex) const override { return at::make_generator<Dice>(); }
};
REGISTER_CUDA_HOOKS(CUDAHooks)
}  // namespace at::detail

struct Guard final : c10::impl::NoOpDeviceGuardImpl<c10::DeviceType::CUDA> {
  c10::Device getDevice() const override { return GPU; }
  c10::Device exchangeDevice(c10::Device) const override { return GPU; }
  c10::Stream getStream(c10::Device) const noexcept override { return c10::Stream(c10::Stream::DEFAULT, GPU); }
};

static const bool registered = [] {
  static Guard guard;
  c10::impl::device_guard_impl_registry[static_cast<size_t>(GPU.type())].store(&guard);
  return true;
}();
