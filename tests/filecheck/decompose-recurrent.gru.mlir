// RUN: qcompiler opt %s -p 'decompose-recurrent'
func.func @main(%x: tensor<1x1x3xf32>) -> tensor<1x1x4xf32> {
  %w = "q.constant"() {value = dense_resource<w> : tensor<1x12x3xf32>} : () -> tensor<1x12x3xf32>
  %r = "q.constant"() {value = dense_resource<r> : tensor<1x12x4xf32>} : () -> tensor<1x12x4xf32>
  %0, %1 = "onnx.GRU"(%x, %w, %r) {hidden_size = 4 : i64} : (tensor<1x1x3xf32>, tensor<1x12x3xf32>, tensor<1x12x4xf32>) -> (tensor<1x1x1x4xf32>, tensor<1x1x4xf32>) loc("gru")
  func.return %1 : tensor<1x1x4xf32>
}
// From a state of zeros one step has no product with R, and no part of the old state.
// CHECK: %[[S:.*]] = "onnx.MatMul"(%{{.*}}) : (tensor<1x3xf32>, tensor<3x12xf32>) -> tensor<1x12xf32>
// CHECK-NEXT: %[[G:.*]] = "onnx.Add"(%[[S]], %{{.*}})
// CHECK: %[[Z:.*]], %{{.*}}, %[[H:.*]] = "onnx.Split"(%[[G]], %{{.*}}) {axis = 1 : i64}
// CHECK-NEXT: %[[U:.*]] = "onnx.Sigmoid"(%[[Z]])
// CHECK: %[[K:.*]] = "onnx.Sub"(%{{.*}}, %[[U]])
// CHECK-NEXT: %[[T:.*]] = "onnx.Tanh"(%[[H]])
// CHECK-NEXT: "onnx.Mul"(%[[K]], %[[T]])
