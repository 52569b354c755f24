// RUN: qcompiler opt %s -p 'cse'
func.func @main(%x: tensor<2xf32>) -> tensor<2xf32> {
  %v = "q.constant"() {value = dense_resource<w> : tensor<2xf32>} : () -> tensor<2xf32>
  %w = "q.constant"() {value = dense_resource<w> : tensor<2xf32>} : () -> tensor<2xf32>
  %0 = "onnx.Add"(%x, %v) : (tensor<2xf32>, tensor<2xf32>) -> tensor<2xf32> loc("first")
  %1 = "onnx.Add"(%x, %w) : (tensor<2xf32>, tensor<2xf32>) -> tensor<2xf32> loc("second")
  %2 = "onnx.RandomUniformLike"(%0) : (tensor<2xf32>) -> tensor<2xf32> loc("noise")
  %3 = "onnx.RandomUniformLike"(%1) : (tensor<2xf32>) -> tensor<2xf32> loc("other noise")
  %4 = "onnx.Sub"(%2, %3) : (tensor<2xf32>, tensor<2xf32>) -> tensor<2xf32>
  func.return %4 : tensor<2xf32>
}
// Constants of one array are one; what is no function of its operands is not merged.
// CHECK: %[[W:.*]] = "q.constant"()
// CHECK-NEXT: %[[S:.*]] = "onnx.Add"(%x, %[[W]])
// CHECK-NEXT: %[[A:.*]] = "onnx.RandomUniformLike"(%[[S]])
// CHECK-NEXT: %[[B:.*]] = "onnx.RandomUniformLike"(%[[S]])
// CHECK-NEXT: "onnx.Sub"(%[[A]], %[[B]])
