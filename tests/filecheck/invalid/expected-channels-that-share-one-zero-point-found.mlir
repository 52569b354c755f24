// RUN: qcompiler opt %s --verify-only
!u = !quant.uniform<u8:f32, 5.0e-01:3>
func.func @main(%x: tensor<1x2x2x!u>, %t: tensor<2x256xui8>) -> (tensor<1x2x2x!quant.uniform<u8:f32:1, {1.0e-01, 1.0e-01:3}>>) {
  %r0 = "q.lut"(%x, %t) : (tensor<1x2x2x!u>, tensor<2x256xui8>) -> tensor<1x2x2x!quant.uniform<u8:f32:1, {1.0e-01, 1.0e-01:3}>>
  func.return %r0 : tensor<1x2x2x!quant.uniform<u8:f32:1, {1.0e-01, 1.0e-01:3}>>
}
// CHECK: error: {{.*}}share one zero point
// -----
!k = !quant.uniform<u8:f32:1, {5.0e-01:3, 2.5e-01:3}>
func.func @main(%x: tensor<1x2x2x!k>, %w: tensor<2x1x2xi8>, %b: tensor<2xi32>, %m: tensor<2xf64>) -> (tensor<1x2x2x!quant.uniform<u8:f32:1, {1.0e-01:1, 1.0e-01:2}>>) {
  %r0 = "q.conv"(%x, %w, %b, %m) {strides = array<i64: 1>, pads = array<i64: 1, 0>, dilations = array<i64: 1>, group = 2 : i64, x_zero_point = 3 : i64, pad_value = 3 : i64, rounding = "fp32", clamp = array<i64: 3, 255>, layout = "NCHW"} : (tensor<1x2x2x!k>, tensor<2x1x2xi8>, tensor<2xi32>, tensor<2xf64>) -> tensor<1x2x2x!quant.uniform<u8:f32:1, {1.0e-01:1, 1.0e-01:2}>>
  func.return %r0 : tensor<1x2x2x!quant.uniform<u8:f32:1, {1.0e-01:1, 1.0e-01:2}>>
}
// CHECK: error: {{.*}}expected channels that share one zero point
