// RUN: qcompiler opt %s --verify-only
!u = !quant.uniform<u8:f32, 5.0e-01:3>
func.func @main(%x: tensor<1x2x2x!u>, %r: tensor<3xi64>, %c: tensor<1xi64>) -> (tensor<1x1x3x1x!u>) {
  %r0 = "q.resize"(%x, %r, %c) {layout = "NCHW"} : (tensor<1x2x2x!u>, tensor<3xi64>, tensor<1xi64>) -> tensor<1x1x3x1x!u>
  func.return %r0 : tensor<1x1x3x1x!u>
}
// CHECK: error: {{.*}}expected an operand of rank 4, found [1, 2, 2]
