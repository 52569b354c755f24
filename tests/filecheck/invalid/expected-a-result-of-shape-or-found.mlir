// RUN: qcompiler opt %s --verify-only
!u = !quant.uniform<u8:f32, 5.0e-01:3>
func.func @main(%x: tensor<2x3x!u>) -> (tensor<3x!u>) {
  %r0 = "q.mean"(%x) {axes = array<i64: 1>, rounding = "fp32", clamp = array<i64: 0, 255>} : (tensor<2x3x!u>) -> tensor<3x!u>
  func.return %r0 : tensor<3x!u>
}
// CHECK: error: {{.*}}expected a result of shape [2, 1] or [2], found [3]
