// RUN: qcompiler opt %s -p 'equalize'
// CONSTANT: w = 8 0 0 1
// CONSTANT: v = 1 2 3 4
func.func @main(%x: tensor<1x2x4x4xf32>) -> (tensor<1x2x4x4xf32>, tensor<1x2x4x4xf32>) {
  %w = "q.constant"() {value = dense_resource<w> : tensor<2x2x1x1xf32>} : () -> tensor<2x2x1x1xf32>
  %v = "q.constant"() {value = dense_resource<v> : tensor<2x2x1x1xf32>} : () -> tensor<2x2x1x1xf32>
  %0 = "onnx.Conv"(%x, %w) : (tensor<1x2x4x4xf32>, tensor<2x2x1x1xf32>) -> tensor<1x2x4x4xf32> loc("first")
  %1 = "onnx.Conv"(%0, %v) : (tensor<1x2x4x4xf32>, tensor<2x2x1x1xf32>) -> tensor<1x2x4x4xf32> loc("second")
  func.return %0, %1 : tensor<1x2x4x4xf32>, tensor<1x2x4x4xf32>
}
// The caller sees the value between the two layers, so its channels stay as they are.
// CHECK-NOT: equalized
// CHECK: %[[Y:.*]] = "onnx.Conv"(%x, %w)
// CHECK-NEXT: "onnx.Conv"(%[[Y]], %v)
