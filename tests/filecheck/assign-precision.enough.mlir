// RUN: qcompiler opt %s -p 'calibrate,choose-scheme,assign-precision{threshold=5.0 free-threshold=5.0}'
func.func @main(%x: tensor<1x64x8x8xf32>) -> tensor<1x64x8x8xf32> {
  %w = "q.constant"() {value = dense_resource<w> : tensor<64x64x3x3xf32>} : () -> tensor<64x64x3x3xf32>
  %0 = "onnx.Conv"(%x, %w) {pads = array<i64: 1, 1, 1, 1>} : (tensor<1x64x8x8xf32>, tensor<64x64x3x3xf32>) -> tensor<1x64x8x8xf32> loc("conv")
  func.return %0 : tensor<1x64x8x8xf32>
}
// Nothing leaves less than 5 dB, so all keep 8 bits; what each leaves is recorded.
// CHECK-NOT: tensors in 16 bits
// CHECK-NOT: i16
// CHECK: "onnx.Conv"(%x, %w) {{.*}}sensitivity = {{.*}}q.types = [!quant.uniform<u8:f32
