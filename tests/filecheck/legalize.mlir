// RUN: qcompiler opt %s -p 'legalize{storage=i8 rounding=fixed2}'
// CONSTANT: m = 0.0123 0.045
!u = !quant.uniform<u8:f32, 5.0e-01:100>
!v = !quant.uniform<u8:f32, 2.5e-01>
module attributes {q.stage = "integer"} {
  func.func @main(%x: tensor<1x3x4x4xf32>) -> tensor<1x2x4x4xf32> {
    %w = "q.constant"() {value = dense_resource<w> : tensor<2x3x1x1xi8>} : () -> tensor<2x3x1x1xi8>
    %b = "q.constant"() {value = dense_resource<b> : tensor<2xi32>} : () -> tensor<2xi32>
    %m = "q.constant"() {value = dense_resource<m> : tensor<2xf64>} : () -> tensor<2xf64>
    %0 = "q.quantize"(%x) : (tensor<1x3x4x4xf32>) -> tensor<1x3x4x4x!u>
    %1 = "q.conv"(%0, %w, %b, %m) {strides = array<i64: 1, 1>, pads = array<i64: 0, 0, 0, 0>, dilations = array<i64: 1, 1>, group = 1 : i64, x_zero_point = 100 : i64, pad_value = 100 : i64, rounding = "fp32", clamp = array<i64: 10, 255>, layout = "NCHW"} : (tensor<1x3x4x4x!u>, tensor<2x3x1x1xi8>, tensor<2xi32>, tensor<2xf64>) -> tensor<1x2x4x4x!v> loc("conv")
    %t = "q.constant"() {value = dense_resource<t> : tensor<256xui8>} : () -> tensor<256xui8>
    %2 = "q.lut"(%1, %t) : (tensor<1x2x4x4x!v>, tensor<256xui8>) -> tensor<1x2x4x4x!u> loc("table")
    %3 = "q.dequantize"(%2) : (tensor<1x2x4x4x!u>) -> tensor<1x2x4x4xf32>
    func.return %3 : tensor<1x2x4x4xf32>
  }
}
// CHECK: q.stage = "legal"
// CHECK: %[[X:.*]] = "q.quantize"(%x) {{.*}}!quant.uniform<i8:f32, 5.0e-01:-28>>
// CHECK-NEXT: %[[M:.*]] = "q.constant"() {value = dense_resource<m.short> : tensor<2xf64>}
// CHECK-NEXT: %[[Y:.*]] = "q.conv"(%[[X]], %w, %b, %[[M]]) {clamp = array<i64: -118, 127>
// CHECK-SAME: pad_value = -28
// CHECK-SAME: rounding = "fixed2"
// CHECK-SAME: x_zero_point = -28
// CHECK-SAME: -> tensor<1x2x4x4x!quant.uniform<i8:f32, 2.5e-01:-128>>
// CHECK-NEXT: %[[T:.*]] = "q.constant"() {value = dense_resource<t.i8> : tensor<256xi8>}
// CHECK-NEXT: "q.lut"(%[[Y]], %[[T]])
