// RUN: qcompiler opt %s --verify-only
!h = !quant.uniform<i16:f32, 1.0e-02>
func.func @main(%a: tensor<4x!quant.uniform<u16:f32, 1.0e-01>>, %b: tensor<4x!quant.uniform<u16:f32, 1.0e-01>>) -> (tensor<4x!h>) {
  %r0 = "q.mul"(%a, %b) {clamp = array<i64: -32768, 32767>, rounding = "fixed"} : (tensor<4x!quant.uniform<u16:f32, 1.0e-01>>, tensor<4x!quant.uniform<u16:f32, 1.0e-01>>) -> tensor<4x!h>
  func.return %r0 : tensor<4x!h>
}
// CHECK: error: {{.*}}can reach 4294836225, beyond int32
