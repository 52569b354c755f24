// RUN: qcompiler opt %s --verify-only
!u = !quant.uniform<u8:f32, 5.0e-01:3>
!h = !quant.uniform<i16:f32, 1.0e-02>
func.func @main(%x: tensor<1x1x3x3x!h>, %w: tensor<1x1x2x2xi8>, %b: tensor<1xi32>, %m: tensor<1xf64>) -> (tensor<1x1x2x2x!u>) {
  %r0 = "q.conv"(%x, %w, %b, %m) {strides = array<i64: 1, 1>, pads = array<i64: 0, 0, 0, 0>, dilations = array<i64: 1, 1>, group = 1 : i64, x_zero_point = 3 : i64, pad_value = 3 : i64, rounding = "fp32", clamp = array<i64: 0, 255>, layout = "NCHW"} : (tensor<1x1x3x3x!h>, tensor<1x1x2x2xi8>, tensor<1xi32>, tensor<1xf64>) -> tensor<1x1x2x2x!u>
  func.return %r0 : tensor<1x1x2x2x!u>
}
// CHECK: error: {{.*}}expected an operand of 8 bits
// -----
!u = !quant.uniform<u8:f32, 5.0e-01:3>
!h = !quant.uniform<i16:f32, 1.0e-02>
func.func @main(%a: tensor<2x2x!h>, %b: tensor<2x2xi8>, %c: tensor<2xi32>, %m: tensor<1xf64>) -> (tensor<2x2x!u>) {
  %r0 = "q.matmul"(%a, %b, %c, %m) {a_zero_point = 3 : i64, b_zero_point = 0 : i64, rounding = "fp32", clamp = array<i64: 0, 255>} : (tensor<2x2x!h>, tensor<2x2xi8>, tensor<2xi32>, tensor<1xf64>) -> tensor<2x2x!u>
  func.return %r0 : tensor<2x2x!u>
}
// CHECK: error: {{.*}}expected an operand of 8 bits
// -----
!u = !quant.uniform<u8:f32, 5.0e-01:3>
!h = !quant.uniform<i16:f32, 1.0e-02>
func.func @main(%a: tensor<2x1x2x!u>, %b: tensor<2x1x!h>, %c: tensor<1xi32>, %m: tensor<1xf64>) -> (tensor<2x1x1x!u>) {
  %r0 = "q.matmul"(%a, %b, %c, %m) {a_zero_point = 3 : i64, b_zero_point = 128 : i64, rounding = "fixed", clamp = array<i64: 0, 255>} : (tensor<2x1x2x!u>, tensor<2x1x!h>, tensor<1xi32>, tensor<1xf64>) -> tensor<2x1x1x!u>
  func.return %r0 : tensor<2x1x1x!u>
}
// CHECK: error: {{.*}}expected an operand of 8 bits
