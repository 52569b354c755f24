// RUN: qcompiler opt %s --verify-only
!u = !quant.uniform<u8:f32, 5.0e-01:3>
func.func @main(%x: tensor<8xi32>) -> (tensor<8x!u>) {
  %r0 = "q.quantize"(%x) : (tensor<8xi32>) -> tensor<8x!u>
  func.return %r0 : tensor<8x!u>
}
// CHECK: error: {{.*}}operand 'x'
// -----
!u = !quant.uniform<u8:f32, 5.0e-01:3>
func.func @main(%a: tensor<3x!u>, %b: tensor<3x!u>) -> (tensor<3xf32>) {
  %r0 = "q.sub"(%a, %b) {clamp = array<i64: 0, 255>} : (tensor<3x!u>, tensor<3x!u>) -> tensor<3xf32>
  func.return %r0 : tensor<3xf32>
}
// CHECK: error: {{.*}}result 'y'
// -----
!u = !quant.uniform<u8:f32, 5.0e-01:3>
func.func @main(%a: tensor<3x!u>, %b: tensor<3xf32>) -> (tensor<3x!u>) {
  %r0 = "q.mul"(%a, %b) {clamp = array<i64: 0, 255>, rounding = "fp32"} : (tensor<3x!u>, tensor<3xf32>) -> tensor<3x!u>
  func.return %r0 : tensor<3x!u>
}
// CHECK: error: {{.*}}operand 'b'
// -----
!u = !quant.uniform<u8:f32, 5.0e-01:3>
func.func @main(%x: tensor<2x3x!u>, %i: tensor<2xi32>) -> (tensor<2x2x!u>) {
  %r0 = "q.gather"(%x, %i) {axis = 1 : i64} : (tensor<2x3x!u>, tensor<2xi32>) -> tensor<2x2x!u>
  func.return %r0 : tensor<2x2x!u>
}
// CHECK: error: {{.*}}operand 'indices'
