// RUN: qcompiler opt %s -p 'calibrate,smooth'
func.func @main(%x: tensor<16x64xf32>) -> tensor<16x64xf32> {
  %g = "q.constant"() {value = dense_resource<g> : tensor<64xf32>} : () -> tensor<64xf32>
  %b = "q.constant"() {value = dense_resource<b> : tensor<64xf32>} : () -> tensor<64xf32>
  %w = "q.constant"() {value = dense_resource<w> : tensor<64x64xf32>} : () -> tensor<64x64xf32>
  %0 = "onnx.LayerNormalization"(%x, %g, %b) {axis = -1 : i64} : (tensor<16x64xf32>, tensor<64xf32>, tensor<64xf32>) -> tensor<16x64xf32> loc("norm")
  %1 = "onnx.MatMul"(%0, %w) : (tensor<16x64xf32>, tensor<64x64xf32>) -> tensor<16x64xf32> loc("product")
  func.return %1 : tensor<16x64xf32>
}
// CHECK: // note: smooth scaled the channels of 1 tensors in front of matrix products
// CHECK: q.stage = "float"
// CHECK: %[[G:.*]] = "q.constant"() {value = dense_resource<g.smooth> : tensor<64xf32>}
// CHECK-NEXT: %[[B:.*]] = "q.constant"() {value = dense_resource<b.smooth> : tensor<64xf32>}
// CHECK-NEXT: %[[Y:.*]] = "onnx.LayerNormalization"(%x, %[[G]], %[[B]])
// CHECK-NEXT: %[[W:.*]] = "q.constant"() {value = dense_resource<w.smooth> : tensor<64x64xf32>}
// CHECK-NEXT: "onnx.MatMul"(%[[Y]], %[[W]])
