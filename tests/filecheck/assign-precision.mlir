// RUN: qcompiler opt %s -p 'calibrate,choose-scheme,assign-precision{free-threshold=200.0}'
func.func @main(%x: tensor<1x64x8x8xf32>) -> tensor<1x64x8x8xf32> {
  %w = "q.constant"() {value = dense_resource<w> : tensor<64x64x3x3xf32>} : () -> tensor<64x64x3x3xf32>
  %v = "q.constant"() {value = dense_resource<v> : tensor<64x64x3x3xf32>} : () -> tensor<64x64x3x3xf32>
  %0 = "onnx.Conv"(%x, %w) {pads = array<i64: 1, 1, 1, 1>} : (tensor<1x64x8x8xf32>, tensor<64x64x3x3xf32>) -> tensor<1x64x8x8xf32> loc("hidden")
  %1 = "onnx.Conv"(%0, %v) {pads = array<i64: 1, 1, 1, 1>} : (tensor<1x64x8x8xf32>, tensor<64x64x3x3xf32>) -> tensor<1x64x8x8xf32> loc("prediction")
  func.return %1 : tensor<1x64x8x8xf32>
}
// The first convolution's result is the operand of the second; the second's is nobody's.
// CHECK: // note: 1 tensors in 16 bits and 0 operations in float
// CHECK: "onnx.Conv"(%x, %w) {{.*}}q.types = [!quant.uniform<u8:f32{{.*}} loc("hidden")
// CHECK-NEXT: "onnx.Conv"(%{{.*}}, %v) {{.*}}q.types = [!quant.uniform<i16:f32{{.*}}q.why = "16 bits: alone in 8 bits it leaves {{.*}} loc("prediction")
