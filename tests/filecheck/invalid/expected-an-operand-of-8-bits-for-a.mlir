// RUN: qcompiler opt %s --verify-only
!h = !quant.uniform<i16:f32, 1.0e-02>
!k = !quant.uniform<u8:f32:1, {5.0e-01:3, 2.5e-01:3}>
func.func @main(%x: tensor<1x2x2x!h>, %t: tensor<2x256xui8>) -> (tensor<1x2x2x!k>) {
  %r0 = "q.lut"(%x, %t) : (tensor<1x2x2x!h>, tensor<2x256xui8>) -> tensor<1x2x2x!k>
  func.return %r0 : tensor<1x2x2x!k>
}
// CHECK: error: {{.*}}expected an operand of 8 bits for a result with one scale
