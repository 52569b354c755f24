// RUN: qcompiler opt %s -p 'equalize'
// CONSTANT: w = 8 0 0 1
// CONSTANT: v = 1 2 3 4
func.func @main(%x: tensor<1x2x4x4xf32>) -> tensor<1x2x4x4xf32> {
  %w = "q.constant"() {value = dense_resource<w> : tensor<2x2x1x1xf32>} : () -> tensor<2x2x1x1xf32>
  %v = "q.constant"() {value = dense_resource<v> : tensor<2x2x1x1xf32>} : () -> tensor<2x2x1x1xf32>
  %0 = "onnx.Conv"(%x, %w) : (tensor<1x2x4x4xf32>, tensor<2x2x1x1xf32>) -> tensor<1x2x4x4xf32> loc("first")
  %1 = "onnx.Relu"(%0) : (tensor<1x2x4x4xf32>) -> tensor<1x2x4x4xf32>
  %2 = "onnx.Conv"(%1, %v) : (tensor<1x2x4x4xf32>, tensor<2x2x1x1xf32>) -> tensor<1x2x4x4xf32> loc("second")
  func.return %2 : tensor<1x2x4x4xf32>
}
// CHECK: // note: equalize scaled the channels between 1 pairs of layers
// CHECK: %[[W:.*]] = "q.constant"() {value = dense_resource<w.equalized> : tensor<2x2x1x1xf32>}
// CHECK-NEXT: %[[Y:.*]] = "onnx.Conv"(%x, %[[W]]) : {{.*}} loc("first")
// CHECK-NEXT: %[[R:.*]] = "onnx.Relu"(%[[Y]])
// CHECK-NEXT: %[[V:.*]] = "q.constant"() {value = dense_resource<v.equalized> : tensor<2x2x1x1xf32>}
// CHECK-NEXT: "onnx.Conv"(%[[R]], %[[V]]) : {{.*}} loc("second")
