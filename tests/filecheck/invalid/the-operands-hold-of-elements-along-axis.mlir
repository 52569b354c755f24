// RUN: qcompiler opt %s --verify-only
!u = !quant.uniform<u8:f32, 5.0e-01:3>
func.func @main(%a: tensor<2x1x!u>, %b: tensor<2x2x!u>) -> (tensor<2x4x!u>) {
  %r0 = "q.concat"(%a, %b) {axis = 1 : i64} : (tensor<2x1x!u>, tensor<2x2x!u>) -> tensor<2x4x!u>
  func.return %r0 : tensor<2x4x!u>
}
// CHECK: error: {{.*}}the operands hold 3 of 4 elements along axis 1
