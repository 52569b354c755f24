// RUN: qcompiler opt %s --verify-only
!u = !quant.uniform<u8:f32, 5.0e-01:3>
!c = !quant.uniform<i8<-127:127>:f32:0, {1.0e-01, 2.0e-01}>
func.func @main(%a: tensor<2x1x2x!u>, %b: tensor<2x1x!c>, %c: tensor<1xi32>, %m: tensor<1xf64>) -> (tensor<2x1x1x!u>) {
  %r0 = "q.matmul"(%a, %b, %c, %m) {a_zero_point = 3 : i64, b_zero_point = 128 : i64, rounding = "fixed", clamp = array<i64: 0, 255>} : (tensor<2x1x2x!u>, tensor<2x1x!c>, tensor<1xi32>, tensor<1xf64>) -> tensor<2x1x1x!u>
  func.return %r0 : tensor<2x1x1x!u>
}
// CHECK: error: {{.*}}expected a per-tensor type
// -----
!v = !quant.uniform<u8:f32, 2.5e-01:128>
!k = !quant.uniform<u8:f32:1, {5.0e-01:3, 2.5e-01:3}>
func.func @main(%x: tensor<2x2x!k>, %t: tensor<256xui8>) -> (tensor<2x2x!v>) {
  %r0 = "q.lut"(%x, %t) : (tensor<2x2x!k>, tensor<256xui8>) -> tensor<2x2x!v>
  func.return %r0 : tensor<2x2x!v>
}
// CHECK: error: {{.*}}expected a per-tensor type
// -----
!u = !quant.uniform<u8:f32, 5.0e-01:3>
!k = !quant.uniform<u8:f32:1, {5.0e-01:3, 2.5e-01:3}>
func.func @main(%a: tensor<3x!k>, %b: tensor<3x!u>) -> (tensor<3x!u>) {
  %r0 = "q.add"(%a, %b) {clamp = array<i64: 0, 255>} : (tensor<3x!k>, tensor<3x!u>) -> tensor<3x!u>
  func.return %r0 : tensor<3x!u>
}
// CHECK: error: {{.*}}expected a per-tensor type
// -----
!h = !quant.uniform<i16:f32, 1.0e-02>
!c = !quant.uniform<i8<-127:127>:f32:0, {1.0e-01, 2.0e-01}>
func.func @main(%x: tensor<3x!c>) -> (tensor<3x!h>) {
  %r0 = "q.requantize"(%x) {rounding = "fp32", clamp = array<i64: -32768, 32767>} : (tensor<3x!c>) -> tensor<3x!h>
  func.return %r0 : tensor<3x!h>
}
// CHECK: error: {{.*}}expected a per-tensor type
// -----
!h = !quant.uniform<i16:f32, 1.0e-02>
func.func @main(%x: tensor<2x2x!h>) -> (tensor<2x2x!quant.uniform<u8:f32:{0:2, 1:2}, {{0.1}}>>) {
  %r0 = "q.requantize"(%x) {rounding = "fp32", clamp = array<i64: 0, 255>} : (tensor<2x2x!h>) -> tensor<2x2x!quant.uniform<u8:f32:{0:2, 1:2}, {{0.1}}>>
  func.return %r0 : tensor<2x2x!quant.uniform<u8:f32:{0:2, 1:2}, {{0.1}}>>
}
// CHECK: error: {{.*}}a per-tensor type
// -----
!u = !quant.uniform<u8:f32, 5.0e-01:3>
!k = !quant.uniform<u8:f32:1, {5.0e-01:3, 2.5e-01:3}>
func.func @main(%x: tensor<2x4x!k>) -> (tensor<1x2x!u>) {
  %r0 = "q.slice"(%x) {starts = array<i64: 1, 3>, steps = array<i64: 1, -2>} : (tensor<2x4x!k>) -> tensor<1x2x!u>
  func.return %r0 : tensor<1x2x!u>
}
// CHECK: error: {{.*}}expected a per-tensor type
