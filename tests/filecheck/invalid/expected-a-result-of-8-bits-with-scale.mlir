// RUN: qcompiler opt %s --verify-only
!u = !quant.uniform<u8:f32, 5.0e-01:3>
func.func @main(%x: tensor<3x2x!u>) -> (tensor<3x2x!u>) {
  %r0 = "q.softmax"(%x) {axis = 1 : i64} : (tensor<3x2x!u>) -> tensor<3x2x!u>
  func.return %r0 : tensor<3x2x!u>
}
// CHECK: error: {{.*}}expected a result of 8 bits with scale 1/256 that starts at real 0
