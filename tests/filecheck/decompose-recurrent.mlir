// RUN: qcompiler opt %s -p 'decompose-recurrent'
func.func @main(%x: tensor<2x1x3xf32>) -> tensor<2x1x1x4xf32> {
  %w = "q.constant"() {value = dense_resource<w> : tensor<1x16x3xf32>} : () -> tensor<1x16x3xf32>
  %r = "q.constant"() {value = dense_resource<r> : tensor<1x16x4xf32>} : () -> tensor<1x16x4xf32>
  %0, %1, %2 = "onnx.LSTM"(%x, %w, %r) {hidden_size = 4 : i64} : (tensor<2x1x3xf32>, tensor<1x16x3xf32>, tensor<1x16x4xf32>) -> (tensor<2x1x1x4xf32>, tensor<1x1x4xf32>, tensor<1x1x4xf32>) loc("lstm")
  func.return %0 : tensor<2x1x1x4xf32>
}
// Both steps' products with W are one matrix product; the second step adds that with R. Its sums and its cell state are
// marked.
// CHECK-NOT: onnx.LSTM
// CHECK: "onnx.MatMul"(%{{.*}}) : (tensor<2x3xf32>, tensor<3x16xf32>) -> tensor<2x16xf32>
// CHECK: %[[R:.*]] = "onnx.MatMul"(%{{.*}}) : (tensor<1x4xf32>, tensor<4x16xf32>) -> tensor<1x16xf32>
// CHECK-NEXT: "onnx.Add"(%[[R]], %{{.*}}) {q.state}
// CHECK: %[[F:.*]] = "onnx.Mul"(%{{.*}}) {q.state} : (tensor<1x4xf32>
// CHECK-NEXT: %[[C:.*]] = "onnx.Add"(%[[F]], %{{.*}}) {q.state}
// CHECK: "onnx.Tanh"(%[[C]])
