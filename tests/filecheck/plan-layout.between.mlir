// RUN: qcompiler opt %s -p 'plan-layout'
!u = !quant.uniform<u8:f32, 5.0e-01:100>
module attributes {q.stage = "legal"} {
  func.func @main(%x: tensor<1x2x4x4x!u>) -> tensor<1x2x4x4x!u> {
    %w = "q.constant"() {value = dense_resource<w> : tensor<2x2x1x1xi8>} : () -> tensor<2x2x1x1xi8>
    %b = "q.constant"() {value = dense_resource<b> : tensor<2xi32>} : () -> tensor<2xi32>
    %m = "q.constant"() {value = dense_resource<m> : tensor<2xf64>} : () -> tensor<2xf64>
    %0 = "q.conv"(%x, %w, %b, %m) {strides = array<i64: 1, 1>, pads = array<i64: 0, 0, 0, 0>, dilations = array<i64: 1, 1>, group = 1 : i64, x_zero_point = 0 : i64, pad_value = 100 : i64, rounding = "fp32", clamp = array<i64: 0, 255>, layout = "NCHW"} : (tensor<1x2x4x4x!u>, tensor<2x2x1x1xi8>, tensor<2xi32>, tensor<2xf64>) -> tensor<1x2x4x4x!u> loc("first")
    %1 = "q.add"(%0, %0) {clamp = array<i64: 0, 255>} : (tensor<1x2x4x4x!u>, tensor<1x2x4x4x!u>) -> tensor<1x2x4x4x!u> loc("sum")
    %2 = "q.conv"(%1, %w, %b, %m) {strides = array<i64: 1, 1>, pads = array<i64: 0, 0, 0, 0>, dilations = array<i64: 1, 1>, group = 1 : i64, x_zero_point = 0 : i64, pad_value = 100 : i64, rounding = "fp32", clamp = array<i64: 0, 255>, layout = "NCHW"} : (tensor<1x2x4x4x!u>, tensor<2x2x1x1xi8>, tensor<2xi32>, tensor<2xf64>) -> tensor<1x2x4x4x!u> loc("second")
    func.return %2 : tensor<1x2x4x4x!u>
  }
}
// Between the two convolutions nothing is transposed.
// CHECK: %[[X:.*]] = "q.transpose"(%x) {perm = array<i64: 0, 2, 3, 1>}
// CHECK-NEXT: %[[Y:.*]] = "q.conv"(%[[X]], %w, %b, %m)
// CHECK-NEXT: %[[S:.*]] = "q.add"(%[[Y]], %[[Y]])
// CHECK-NEXT: %[[Z:.*]] = "q.conv"(%[[S]], %w, %b, %m)
// CHECK-NEXT: %[[R:.*]] = "q.transpose"(%[[Z]]) {perm = array<i64: 0, 3, 1, 2>}
// CHECK-NEXT: func.return %[[R]]
