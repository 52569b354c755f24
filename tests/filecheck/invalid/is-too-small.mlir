// RUN: qcompiler opt %s --verify-only
!u = !quant.uniform<u8:f32, 5.0e-01:3>
!h = !quant.uniform<i16:f32, 1.0e-02>
func.func @main(%a: tensor<4x!h>, %b: tensor<4x!u>) -> (tensor<4x!quant.uniform<i16:f32, 1.0e-07>>) {
  %r0 = "q.add"(%a, %b) {clamp = array<i64: -32768, 32767>} : (tensor<4x!h>, tensor<4x!u>) -> tensor<4x!quant.uniform<i16:f32, 1.0e-07>>
  func.return %r0 : tensor<4x!quant.uniform<i16:f32, 1.0e-07>>
}
// CHECK: error: {{.*}}is too small
