// RUN: qcompiler opt %s -p 'fold-zero-point'
// CONSTANT: w = 1 2 3 4 5 6
// CONSTANT: b = 7 8
!u = !quant.uniform<u8:f32, 5.0e-01:100>
module attributes {q.stage = "integer"} {
  func.func @main(%x: tensor<1x3x!u>) -> tensor<1x2x!u> {
    %w = "q.constant"() {value = dense_resource<w> : tensor<3x2xi8>} : () -> tensor<3x2xi8>
    %b = "q.constant"() {value = dense_resource<b> : tensor<2xi32>} : () -> tensor<2xi32>
    %m = "q.constant"() {value = dense_resource<m> : tensor<1xf64>} : () -> tensor<1xf64>
    %0 = "q.matmul"(%x, %w, %b, %m) {a_zero_point = 100 : i64, b_zero_point = 0 : i64, clamp = array<i64: 0, 255>, rounding = "fp32"} : (tensor<1x3x!u>, tensor<3x2xi8>, tensor<2xi32>, tensor<1xf64>) -> tensor<1x2x!u> loc("product")
    func.return %0 : tensor<1x2x!u>
  }
}
// CHECK: %[[B:.*]] = "q.constant"() {value = dense_resource<b.folded> : tensor<2xi32>}
// CHECK-NEXT: "q.matmul"(%x, %w, %[[B]], %m) {a_zero_point = 0 : i64, b_zero_point = 0 : i64
