// RUN: qcompiler opt %s --verify-only
!u = !quant.uniform<u8:f32, 5.0e-01:3>
func.func @main(%x: tensor<2x3x!u>) -> (tensor<2x!u>) {
  %r0 = "q.mean"(%x) {axes = array<i64: 1, 1>, rounding = "fp32", clamp = array<i64: 0, 255>} : (tensor<2x3x!u>) -> tensor<2x!u>
  func.return %r0 : tensor<2x!u>
}
// CHECK: error: {{.*}}expected axes, each once
