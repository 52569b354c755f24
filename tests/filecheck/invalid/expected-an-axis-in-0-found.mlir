// RUN: qcompiler opt %s --verify-only
func.func @main(%x: tensor<2x2xf32>) -> (tensor<2x2x!quant.uniform<i8:f32:2, {1.0e-01}>>) {
  %r0 = "q.quantize"(%x) {q.why = "weights"} : (tensor<2x2xf32>) -> tensor<2x2x!quant.uniform<i8:f32:2, {1.0e-01}>>
  func.return %r0 : tensor<2x2x!quant.uniform<i8:f32:2, {1.0e-01}>>
}
// CHECK: error: {{.*}}expected an axis in 0..1, found 2
// -----
!u = !quant.uniform<u8:f32, 5.0e-01:3>
func.func @main(%x: tensor<2x3x!u>) -> (tensor<2x!u>) {
  %r0 = "q.mean"(%x) {axes = array<i64: 2>, rounding = "fp32", clamp = array<i64: 0, 255>} : (tensor<2x3x!u>) -> tensor<2x!u>
  func.return %r0 : tensor<2x!u>
}
// CHECK: error: {{.*}}expected an axis in 0..1, found 2
// -----
!u = !quant.uniform<u8:f32, 5.0e-01:3>
!p = !quant.uniform<u8:f32, 3.90625e-03>
func.func @main(%x: tensor<3x2x!u>) -> (tensor<3x2x!p>) {
  %r0 = "q.softmax"(%x) {axis = 2 : i64} : (tensor<3x2x!u>) -> tensor<3x2x!p>
  func.return %r0 : tensor<3x2x!p>
}
// CHECK: error: {{.*}}expected an axis in 0..1, found 2
// -----
!u = !quant.uniform<u8:f32, 5.0e-01:3>
func.func @main(%a: tensor<2x1x!u>, %b: tensor<2x2x!u>) -> (tensor<2x3x!u>) {
  %r0 = "q.concat"(%a, %b) {axis = -1 : i64} : (tensor<2x1x!u>, tensor<2x2x!u>) -> tensor<2x3x!u>
  func.return %r0 : tensor<2x3x!u>
}
// CHECK: error: {{.*}}expected an axis in 0..1, found -1
// -----
!u = !quant.uniform<u8:f32, 5.0e-01:3>
func.func @main(%x: tensor<4x!u>) -> (tensor<1x!u>, tensor<3x!u>) {
  %r0, %r1 = "q.split"(%x) {axis = 1 : i64} : (tensor<4x!u>) -> (tensor<1x!u>, tensor<3x!u>)
  func.return %r0, %r1 : tensor<1x!u>, tensor<3x!u>
}
// CHECK: error: {{.*}}expected an axis in 0..0, found 1
// -----
!u = !quant.uniform<u8:f32, 5.0e-01:3>
func.func @main(%x: tensor<2x3x!u>, %i: tensor<2xi64>) -> (tensor<2x2x!u>) {
  %r0 = "q.gather"(%x, %i) {axis = 2 : i64} : (tensor<2x3x!u>, tensor<2xi64>) -> tensor<2x2x!u>
  func.return %r0 : tensor<2x2x!u>
}
// CHECK: error: {{.*}}expected an axis in 0..1, found 2
// -----
func.func @main(%x: tensor<2x2xf32>, %s: tensor<2xf32>, %z: tensor<2xi2>) -> (tensor<2x2xi2>) {
  %r0 = "q.quantize_linear"(%x, %s, %z) {axis = 2 : i64, block_size = 0 : i64, saturate = true} : (tensor<2x2xf32>, tensor<2xf32>, tensor<2xi2>) -> tensor<2x2xi2>
  func.return %r0 : tensor<2x2xi2>
}
// CHECK: error: {{.*}}expected an axis in 0..1, found 2
