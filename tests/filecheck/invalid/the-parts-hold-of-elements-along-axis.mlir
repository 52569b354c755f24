// RUN: qcompiler opt %s --verify-only
!u = !quant.uniform<u8:f32, 5.0e-01:3>
func.func @main(%x: tensor<4x!u>) -> (tensor<1x!u>, tensor<2x!u>) {
  %r0, %r1 = "q.split"(%x) {axis = 0 : i64} : (tensor<4x!u>) -> (tensor<1x!u>, tensor<2x!u>)
  func.return %r0, %r1 : tensor<1x!u>, tensor<2x!u>
}
// CHECK: error: {{.*}}the parts hold 3 of 4 elements along axis 0
