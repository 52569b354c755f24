// RUN: qcompiler opt %s --verify-only
!u = !quant.uniform<u8:f32, 5.0e-01:3>
func.func @main(%x: tensor<1x1x3x3x!u>, %w: tensor<1x2x2x2xi8>, %b: tensor<1xi32>, %m: tensor<1xf64>) -> (tensor<1x1x2x2x!u>) {
  %r0 = "q.conv"(%x, %w, %b, %m) {strides = array<i64: 1, 1>, pads = array<i64: 0, 0, 0, 0>, dilations = array<i64: 1, 1>, group = 1 : i64, x_zero_point = 3 : i64, pad_value = 3 : i64, rounding = "fp32", clamp = array<i64: 0, 255>, layout = "NCHW"} : (tensor<1x1x3x3x!u>, tensor<1x2x2x2xi8>, tensor<1xi32>, tensor<1xf64>) -> tensor<1x1x2x2x!u>
  func.return %r0 : tensor<1x1x2x2x!u>
}
// CHECK: error: {{.*}}1 input channels do not fit a weight [1, 2, 2, 2]
// -----
!u = !quant.uniform<u8:f32, 5.0e-01:3>
func.func @main(%x: tensor<1x1x3x3x!u>, %w: tensor<1x1x2x2xi8>, %b: tensor<1xi32>, %m: tensor<1xf64>) -> (tensor<1x1x2x2x!u>) {
  %r0 = "q.conv"(%x, %w, %b, %m) {strides = array<i64: 1, 1>, pads = array<i64: 0, 0, 0, 0>, dilations = array<i64: 1, 1>, group = 2 : i64, x_zero_point = 3 : i64, pad_value = 3 : i64, rounding = "fp32", clamp = array<i64: 0, 255>, layout = "NCHW"} : (tensor<1x1x3x3x!u>, tensor<1x1x2x2xi8>, tensor<1xi32>, tensor<1xf64>) -> tensor<1x1x2x2x!u>
  func.return %r0 : tensor<1x1x2x2x!u>
}
// CHECK: error: {{.*}}do not fit a weight [1, 1, 2, 2] in 2 groups
