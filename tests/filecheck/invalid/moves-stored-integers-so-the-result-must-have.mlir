// RUN: qcompiler opt %s --verify-only
!k = !quant.uniform<u8:f32:1, {5.0e-01:3, 2.5e-01:3}>
func.func @main(%x: tensor<1x2x!k>) -> (tensor<2x1x!quant.uniform<u8:f32:1, {5.0e-01:3, 2.5e-01:3}>>) {
  %r0 = "q.transpose"(%x) {perm = array<i64: 1, 0>} : (tensor<1x2x!k>) -> tensor<2x1x!quant.uniform<u8:f32:1, {5.0e-01:3, 2.5e-01:3}>>
  func.return %r0 : tensor<2x1x!quant.uniform<u8:f32:1, {5.0e-01:3, 2.5e-01:3}>>
}
// CHECK: error: {{.*}}the result must have the operand's type
// -----
!k = !quant.uniform<u8:f32:1, {5.0e-01:3, 2.5e-01:3}>
func.func @main(%x: tensor<3x2x4x!k>) -> (tensor<1x3x2x2x2x!quant.uniform<u8:f32:2, {4.0e-01:3, 2.5e-01:3}>>) {
  %r0 = "q.reshape"(%x) : (tensor<3x2x4x!k>) -> tensor<1x3x2x2x2x!quant.uniform<u8:f32:2, {4.0e-01:3, 2.5e-01:3}>>
  func.return %r0 : tensor<1x3x2x2x2x!quant.uniform<u8:f32:2, {4.0e-01:3, 2.5e-01:3}>>
}
// CHECK: error: {{.*}}must have the operand's type
// -----
!u = !quant.uniform<u8:f32, 5.0e-01:3>
!s = !quant.uniform<i8:f32, 5.0e-01:-1>
func.func @main(%x: tensor<1x1x2x2x!s>) -> (tensor<1x1x1x2x!u>) {
  %r0 = "q.max_pool"(%x) {kernel = array<i64: 2, 2>, strides = array<i64: 1, 1>, pads = array<i64: 0, 1, 0, 0>, dilations = array<i64: 1, 1>, layout = "NCHW"} : (tensor<1x1x2x2x!s>) -> tensor<1x1x1x2x!u>
  func.return %r0 : tensor<1x1x1x2x!u>
}
// CHECK: error: {{.*}}the result must have the operand's type
// -----
!u = !quant.uniform<u8:f32, 5.0e-01:3>
!v = !quant.uniform<u8:f32, 2.5e-01:128>
func.func @main(%a: tensor<2x1x!u>, %b: tensor<2x2x!v>) -> (tensor<2x3x!u>) {
  %r0 = "q.concat"(%a, %b) {axis = 1 : i64} : (tensor<2x1x!u>, tensor<2x2x!v>) -> tensor<2x3x!u>
  func.return %r0 : tensor<2x3x!u>
}
// CHECK: error: {{.*}}the result must have the operand's type
// -----
!u = !quant.uniform<u8:f32, 5.0e-01:3>
!v = !quant.uniform<u8:f32, 2.5e-01:128>
func.func @main(%x: tensor<4x!u>) -> (tensor<1x!u>, tensor<3x!v>) {
  %r0, %r1 = "q.split"(%x) {axis = 0 : i64} : (tensor<4x!u>) -> (tensor<1x!u>, tensor<3x!v>)
  func.return %r0, %r1 : tensor<1x!u>, tensor<3x!v>
}
// CHECK: error: {{.*}}the result must have the operand's type
// -----
!u = !quant.uniform<u8:f32, 5.0e-01:3>
!v = !quant.uniform<u8:f32, 2.5e-01:128>
func.func @main(%x: tensor<2x3x!u>) -> (tensor<6x!v>) {
  %r0 = "q.reshape"(%x) : (tensor<2x3x!u>) -> tensor<6x!v>
  func.return %r0 : tensor<6x!v>
}
// CHECK: error: {{.*}}the result must have the operand's type
