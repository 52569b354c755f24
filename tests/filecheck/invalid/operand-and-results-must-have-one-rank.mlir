// RUN: qcompiler opt %s --verify-only
!u = !quant.uniform<u8:f32, 5.0e-01:3>
func.func @main(%x: tensor<4x!u>) -> (tensor<1x!u>, tensor<3x1x!u>) {
  %r0, %r1 = "q.split"(%x) {axis = 0 : i64} : (tensor<4x!u>) -> (tensor<1x!u>, tensor<3x1x!u>)
  func.return %r0, %r1 : tensor<1x!u>, tensor<3x1x!u>
}
// CHECK: error: {{.*}}operand and results must have one rank
