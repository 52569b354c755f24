// RUN: qcompiler opt %s --verify-only
func.func @main(%x: tensor<2x2xf32>) -> (tensor<2x2x!quant.uniform<i8:f32:0, {1.0e-01}>>) {
  %r0 = "q.quantize"(%x) {q.why = "weights"} : (tensor<2x2xf32>) -> tensor<2x2x!quant.uniform<i8:f32:0, {1.0e-01}>>
  func.return %r0 : tensor<2x2x!quant.uniform<i8:f32:0, {1.0e-01}>>
}
// CHECK: error: {{.*}}1 scales do not fit axis 0 of [2, 2]
// -----
!h = !quant.uniform<i16:f32, 1.0e-02>
func.func @main(%x: tensor<2x2x!h>) -> (tensor<2x2x!quant.uniform<u8:f32:1, {1.0e-01}>>) {
  %r0 = "q.requantize"(%x) {rounding = "fp32", clamp = array<i64: 0, 255>} : (tensor<2x2x!h>) -> tensor<2x2x!quant.uniform<u8:f32:1, {1.0e-01}>>
  func.return %r0 : tensor<2x2x!quant.uniform<u8:f32:1, {1.0e-01}>>
}
// CHECK: error: {{.*}}1 scales do not fit axis 1
