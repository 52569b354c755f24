// RUN: qcompiler opt %s --verify-only
!h = !quant.uniform<i16:f32, 1.0e-02>
func.func @main(%a: tensor<4x!h>, %b: tensor<4x!quant.uniform<i32:f32, 1.0e-01>>) -> (tensor<4x!h>) {
  %r0 = "q.add"(%a, %b) {clamp = array<i64: -32768, 32767>} : (tensor<4x!h>, tensor<4x!quant.uniform<i32:f32, 1.0e-01>>) -> tensor<4x!h>
  func.return %r0 : tensor<4x!h>
}
// CHECK: error: {{.*}}a type of 8 or 16 bits
// -----
!u = !quant.uniform<u8:f32, 5.0e-01:3>
func.func @main(%x: tensor<5x!quant.uniform<i32:f32, 0.1>>) -> (tensor<5x!u>) {
  %r0 = "q.requantize"(%x) {rounding = "fixed", clamp = array<i64: 3, 200>} : (tensor<5x!quant.uniform<i32:f32, 0.1>>) -> tensor<5x!u>
  func.return %r0 : tensor<5x!u>
}
// CHECK: error: {{.*}}8 or 16 bits
