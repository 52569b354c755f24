// RUN: qcompiler opt %s --verify-only
!p = !quant.uniform<u8:f32, 3.90625e-03>
func.func @main(%x: tensor<3x2x!quant.uniform<u16:f32, 1.0e-01>>) -> (tensor<3x2x!p>) {
  %r0 = "q.softmax"(%x) {axis = 1 : i64} : (tensor<3x2x!quant.uniform<u16:f32, 1.0e-01>>) -> tensor<3x2x!p>
  func.return %r0 : tensor<3x2x!p>
}
// CHECK: error: {{.*}}expected an operand of 8 bits
