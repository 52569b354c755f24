// RUN: qcompiler opt %s --verify-only
!u = !quant.uniform<u8:f32, 5.0e-01:3>
func.func @main(%x: tensor<1x1x3x3x!u>, %w: tensor<1x1x2x2xi8>, %b: tensor<1xi32>, %m: tensor<1xf64>) -> (tensor<1x1x2x2x!u>) {
  %r0 = "q.conv"(%x, %w, %b, %m) {strides = array<i64: 1, 1>, pads = array<i64: 0, 0, 0, 0>, dilations = array<i64: 1, 1>, group = 1 : i64, x_zero_point = 3 : i64, pad_value = 3 : i64, rounding = "up", clamp = array<i64: 0, 255>, layout = "NCHW"} : (tensor<1x1x3x3x!u>, tensor<1x1x2x2xi8>, tensor<1xi32>, tensor<1xf64>) -> tensor<1x1x2x2x!u>
  func.return %r0 : tensor<1x1x2x2x!u>
}
// CHECK: error: {{.*}}rounding must be one of fp32, fixed, fixed2, got 'up'
// -----
!u = !quant.uniform<u8:f32, 5.0e-01:3>
func.func @main(%a: tensor<3x!u>, %b: tensor<3x!u>) -> (tensor<3x!u>) {
  %r0 = "q.mul"(%a, %b) {clamp = array<i64: 0, 255>, rounding = "fp16"} : (tensor<3x!u>, tensor<3x!u>) -> tensor<3x!u>
  func.return %r0 : tensor<3x!u>
}
// CHECK: error: {{.*}}rounding must be one of
// -----
!u = !quant.uniform<u8:f32, 5.0e-01:3>
!h = !quant.uniform<i16:f32, 1.0e-02>
func.func @main(%x: tensor<3x!u>) -> (tensor<3x!h>) {
  %r0 = "q.requantize"(%x) {rounding = "up", clamp = array<i64: -32768, 32767>} : (tensor<3x!u>) -> tensor<3x!h>
  func.return %r0 : tensor<3x!h>
}
// CHECK: error: {{.*}}rounding must be one of
// -----
!u = !quant.uniform<u8:f32, 5.0e-01:3>
func.func @main(%x: tensor<1x1x2x2x!u>) -> (tensor<1x1x2x1x!u>) {
  %r0 = "q.average_pool"(%x) {kernel = array<i64: 2, 2>, strides = array<i64: 1, 1>, pads = array<i64: 1, 0, 0, 0>, count_include_pad = false, rounding = "nearest", clamp = array<i64: 0, 255>, layout = "NCHW"} : (tensor<1x1x2x2x!u>) -> tensor<1x1x2x1x!u>
  func.return %r0 : tensor<1x1x2x1x!u>
}
// CHECK: error: {{.*}}rounding must be one of
