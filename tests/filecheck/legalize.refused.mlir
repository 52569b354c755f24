// RUN: qcompiler opt %s -p 'legalize{rounding=fixed2}'
// CONSTANT: m = 0.5 -0.25
!u = !quant.uniform<u8:f32, 5.0e-01:100>
!v = !quant.uniform<u8:f32, 2.5e-01>
module attributes {q.stage = "integer"} {
  func.func @main(%x: tensor<1x3x4x4x!u>) -> tensor<1x2x4x4x!v> {
    %w = "q.constant"() {value = dense_resource<w> : tensor<2x3x1x1xi8>} : () -> tensor<2x3x1x1xi8>
    %b = "q.constant"() {value = dense_resource<b> : tensor<2xi32>} : () -> tensor<2xi32>
    %m = "q.constant"() {value = dense_resource<m> : tensor<2xf64>} : () -> tensor<2xf64>
    %1 = "q.conv"(%x, %w, %b, %m) {strides = array<i64: 1, 1>, pads = array<i64: 0, 0, 0, 0>, dilations = array<i64: 1, 1>, group = 1 : i64, x_zero_point = 100 : i64, pad_value = 100 : i64, rounding = "fp32", clamp = array<i64: 10, 255>, layout = "NCHW"} : (tensor<1x3x4x4x!u>, tensor<2x3x1x1xi8>, tensor<2xi32>, tensor<2xf64>) -> tensor<1x2x4x4x!v> loc("conv")
    func.return %1 : tensor<1x2x4x4x!v>
  }
}
// CHECK: error: {{.*}}q.conv 'conv': a requantize multiplier must be positive and finite
