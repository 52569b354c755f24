// RUN: qcompiler opt %s --verify-only
!v = !quant.uniform<u8:f32, 2.5e-01:128>
func.func @main(%x: tensor<2x2x!quant.uniform<u4:f32, 1.0e-01>>, %t: tensor<256xui8>) -> (tensor<2x2x!v>) {
  %r0 = "q.lut"(%x, %t) : (tensor<2x2x!quant.uniform<u4:f32, 1.0e-01>>, tensor<256xui8>) -> tensor<2x2x!v>
  func.return %r0 : tensor<2x2x!v>
}
// CHECK: error: {{.*}}expected an operand of 8 or 16 bits
