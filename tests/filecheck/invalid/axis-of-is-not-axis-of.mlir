// RUN: qcompiler opt %s --verify-only
!k = !quant.uniform<u8:f32:1, {5.0e-01:3, 2.5e-01:3}>
func.func @main(%x: tensor<3x2x4x!k>) -> (tensor<1x3x2x2x2x!quant.uniform<u8:f32:3, {5.0e-01:3, 2.5e-01:3}>>) {
  %r0 = "q.reshape"(%x) : (tensor<3x2x4x!k>) -> tensor<1x3x2x2x2x!quant.uniform<u8:f32:3, {5.0e-01:3, 2.5e-01:3}>>
  func.return %r0 : tensor<1x3x2x2x2x!quant.uniform<u8:f32:3, {5.0e-01:3, 2.5e-01:3}>>
}
// CHECK: error: {{.*}}axis 3 of [1, 3, 2, 2, 2] is not axis 1 of [3, 2, 4]
// -----
!k = !quant.uniform<u8:f32:1, {5.0e-01:3, 2.5e-01:3}>
func.func @main(%x: tensor<3x2x4x!k>) -> (tensor<1x3x8x!quant.uniform<u8:f32:2, {5.0e-01:3, 2.5e-01:3}>>) {
  %r0 = "q.reshape"(%x) : (tensor<3x2x4x!k>) -> tensor<1x3x8x!quant.uniform<u8:f32:2, {5.0e-01:3, 2.5e-01:3}>>
  func.return %r0 : tensor<1x3x8x!quant.uniform<u8:f32:2, {5.0e-01:3, 2.5e-01:3}>>
}
// CHECK: error: {{.*}}axis 2 of [1, 3, 8] is not axis 1 of [3, 2, 4]
