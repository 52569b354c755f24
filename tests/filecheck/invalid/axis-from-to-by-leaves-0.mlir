// RUN: qcompiler opt %s --verify-only
!u = !quant.uniform<u8:f32, 5.0e-01:3>
func.func @main(%x: tensor<2x4x!u>) -> (tensor<1x2x!u>) {
  %r0 = "q.slice"(%x) {starts = array<i64: 1, 4>, steps = array<i64: 1, -2>} : (tensor<2x4x!u>) -> tensor<1x2x!u>
  func.return %r0 : tensor<1x2x!u>
}
// CHECK: error: {{.*}}axis 1: from 4 to 2 by -2 leaves 0..3
// -----
!u = !quant.uniform<u8:f32, 5.0e-01:3>
func.func @main(%x: tensor<2x4x!u>) -> (tensor<1x2x!u>) {
  %r0 = "q.slice"(%x) {starts = array<i64: 1, 3>, steps = array<i64: 1, 0>} : (tensor<2x4x!u>) -> tensor<1x2x!u>
  func.return %r0 : tensor<1x2x!u>
}
// CHECK: error: {{.*}}axis 1: from 3 to 3 by 0 leaves 0..3
