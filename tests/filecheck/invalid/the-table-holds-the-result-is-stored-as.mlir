// RUN: qcompiler opt %s --verify-only
!u = !quant.uniform<u8:f32, 5.0e-01:3>
!v = !quant.uniform<u8:f32, 2.5e-01:128>
func.func @main(%x: tensor<2x2x!u>, %t: tensor<256xi8>) -> (tensor<2x2x!v>) {
  %r0 = "q.lut"(%x, %t) : (tensor<2x2x!u>, tensor<256xi8>) -> tensor<2x2x!v>
  func.return %r0 : tensor<2x2x!v>
}
// CHECK: error: {{.*}}the table holds i8, the result is stored as u8
// -----
!u = !quant.uniform<u8:f32, 5.0e-01:3>
!v = !quant.uniform<u8:f32, 2.5e-01:128>
func.func @main(%x: tensor<2x2x!u>, %t: tensor<256xf32>) -> (tensor<2x2x!v>) {
  %r0 = "q.lut"(%x, %t) : (tensor<2x2x!u>, tensor<256xf32>) -> tensor<2x2x!v>
  func.return %r0 : tensor<2x2x!v>
}
// CHECK: error: {{.*}}the table holds f32, the result is stored as u8
