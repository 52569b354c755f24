// RUN: qcompiler opt %s --verify-only
!u = !quant.uniform<u8:f32, 5.0e-01:3>
func.func @main(%a: tensor<2x!u>, %b: tensor<3x!u>) -> (tensor<3x!u>) {
  %r0 = "q.add"(%a, %b) {clamp = array<i64: 0, 255>} : (tensor<2x!u>, tensor<3x!u>) -> tensor<3x!u>
  func.return %r0 : tensor<3x!u>
}
// CHECK: error: {{.*}}shapes [2] and [3] do not broadcast
