// RUN: qcompiler opt %s -p 'calibrate,smooth'
func.func @main(%x: tensor<16x64xf32>) -> (tensor<16x64xf32>, tensor<16x64xf32>) {
  %g = "q.constant"() {value = dense_resource<g> : tensor<64xf32>} : () -> tensor<64xf32>
  %b = "q.constant"() {value = dense_resource<b> : tensor<64xf32>} : () -> tensor<64xf32>
  %w = "q.constant"() {value = dense_resource<w> : tensor<64x64xf32>} : () -> tensor<64x64xf32>
  %0 = "onnx.LayerNormalization"(%x, %g, %b) {axis = -1 : i64} : (tensor<16x64xf32>, tensor<64xf32>, tensor<64xf32>) -> tensor<16x64xf32> loc("norm")
  %1 = "onnx.MatMul"(%0, %w) : (tensor<16x64xf32>, tensor<64x64xf32>) -> tensor<16x64xf32> loc("product")
  %2 = "onnx.Tanh"(%0) : (tensor<16x64xf32>) -> tensor<16x64xf32> loc("no product")
  func.return %1, %2 : tensor<16x64xf32>, tensor<16x64xf32>
}
// Something else than a matrix product reads the value, so its channels stay as they are.
// CHECK-NOT: smooth scaled
// CHECK: %[[Y:.*]] = "onnx.LayerNormalization"(%x, %g, %b)
// CHECK-NEXT: "onnx.MatMul"(%[[Y]], %w)
