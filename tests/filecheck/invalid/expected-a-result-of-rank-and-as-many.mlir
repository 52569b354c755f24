// RUN: qcompiler opt %s --verify-only
!u = !quant.uniform<u8:f32, 5.0e-01:3>
func.func @main(%x: tensor<2x4x!u>) -> (tensor<1x2x!u>) {
  %r0 = "q.slice"(%x) {starts = array<i64: 3>, steps = array<i64: 1, -2>} : (tensor<2x4x!u>) -> tensor<1x2x!u>
  func.return %r0 : tensor<1x2x!u>
}
// CHECK: error: {{.*}}as many starts and steps
