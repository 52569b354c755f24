// RUN: qcompiler opt %s -p 'fold-batch-norm'
// CONSTANT: var = 1 2
func.func @main(%x: tensor<1x3x2x2xf32>) -> (tensor<1x2x2x2xf32>, tensor<1x2x2x2xf32>) {
  %w = "q.constant"() {value = dense_resource<w> : tensor<2x3x1x1xf32>} : () -> tensor<2x3x1x1xf32>
  %g = "q.constant"() {value = dense_resource<g> : tensor<2xf32>} : () -> tensor<2xf32>
  %var = "q.constant"() {value = dense_resource<var> : tensor<2xf32>} : () -> tensor<2xf32>
  %0 = "onnx.Conv"(%x, %w) : (tensor<1x3x2x2xf32>, tensor<2x3x1x1xf32>) -> tensor<1x2x2x2xf32> loc("conv")
  %1 = "onnx.BatchNormalization"(%0, %g, %g, %g, %var) : (tensor<1x2x2x2xf32>, tensor<2xf32>, tensor<2xf32>, tensor<2xf32>, tensor<2xf32>) -> tensor<1x2x2x2xf32> loc("norm")
  func.return %0, %1 : tensor<1x2x2x2xf32>, tensor<1x2x2x2xf32>
}
// The convolution's own result is read too, so the normalization becomes a depthwise convolution.
// CHECK-NOT: BatchNormalization
// CHECK: %[[Y:.*]] = "onnx.Conv"(%x, %w) : {{.*}} loc("conv")
// CHECK: %[[N:.*]] = "onnx.Conv"(%[[Y]], %{{.*}}, %{{.*}}) {group = 2 : i64} {{.*}} loc("norm")
// CHECK-NEXT: func.return %[[Y]], %[[N]]
